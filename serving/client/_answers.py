"""Answers to values, and refusals to the errors that they were at the server."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from serving.wire import STATUS, URN
from wander.errors import InputError, NotReady, Overloaded, ServiceError

BY_NAME = {kind.__name__: kind for kind in STATUS}
BY_STATUS = {status: kind for kind, status in reversed(STATUS.items())}
"""Of several with one status the first: the others are kinds of it."""


def json_object(response: httpx.Response, *members: str) -> dict[str, Any]:
    """An answer that has these members. Raises ServiceError for any other: it is from no server of ours."""
    answer = _parsed(response)
    if not isinstance(answer, dict):
        raise ServiceError(f"{response.url} answers, but not with the JSON object that is due there")
    if missing := [name for name in members if name not in answer]:
        raise ServiceError(f"{response.url} answers without {missing[0]}, which is due there")
    return answer


def json_list(response: httpx.Response) -> list[dict[str, Any]]:
    """Raises ServiceError for an answer that is no list of objects."""
    answer = _parsed(response)
    if not (isinstance(answer, list) and all(isinstance(one, dict) for one in answer)):
        raise ServiceError(f"{response.url} answers, but not with the list of JSON objects that is due there")
    return answer


def results(response: httpx.Response) -> list[dict[str, Any] | ServiceError]:
    """Of a bulk request: a result or an error for every item, in order."""
    found: list[dict[str, Any]] = json_object(response, "results")["results"]
    return [of_problem(one["error"]) if "error" in one else one for one in found]


def refusal(response: httpx.Response) -> ServiceError:
    """The error that an answer without success stands for: problem details, `{"error": ...}`, or a bare status."""
    answer = _parsed(response)
    told = answer if isinstance(answer, dict) else {}
    if isinstance(text := told.get("error"), str):
        told = {"detail": text}
    missing = f"{response.url} answers {response.status_code} {response.reason_phrase}".rstrip()
    return of_problem({"detail": missing, **told, "status": response.status_code}, retry_after(response))


def of_problem(problem: Mapping[str, Any], seconds: float | None = None) -> ServiceError:
    """The error of problem details: the class that `type` names, else that of the status, else of the status's kind.

    Args:
        seconds: after which trying again is sensible, if the server says so.
    """
    status = problem["status"]
    kind = BY_NAME.get(str(problem.get("type", "")).removeprefix(URN)) or BY_STATUS.get(status)
    if kind is None:
        kind = InputError if 400 <= status < 500 else ServiceError
    message = str(problem["detail"])
    if issubclass(kind, InputError):
        return kind(message, problem.get("field"))
    if seconds is not None and issubclass(kind, Overloaded | NotReady):
        return kind(message, seconds)
    return kind(message)


def retry_after(response: httpx.Response) -> float | None:
    """Seconds that `Retry-After` asks for, as a number or a date; None without one that can be read."""
    text = response.headers.get("retry-after")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            date = parsedate_to_datetime(text)
        except ValueError:
            return None
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp()
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _parsed(response: httpx.Response) -> Any:
    """The JSON of an answer, None if it is none."""
    try:
        return response.json()
    except ValueError:
        return None
