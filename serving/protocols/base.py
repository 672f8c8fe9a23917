"""What every protocol offers, and how errors are told."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import orjson
from fastapi import APIRouter, Request, Response
from starlette.types import ASGIApp, Scope

from serving.answers import Timing
from serving.service import Service
from serving.wire import STATUS, TIMEOUT_HEADER, URN
from wander.errors import (
    DeadlineExceeded,
    EngineError,
    Forbidden,
    InputError,
    MalformedBody,
    NotFound,
    NotReady,
    Overloaded,
    RateLimited,
    ServiceError,
    SlowRequest,
    TooLarge,
    Unauthorized,
    Unreachable,
    UnsupportedMedia,
)


def status_of(error: ServiceError) -> int:
    """The status of an error's class, or of the nearest class above it."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def retry_headers(error: ServiceError) -> dict[str, str]:
    """`Retry-After`, for errors after which trying again is sensible."""
    if isinstance(error, Overloaded | NotReady):
        return {"Retry-After": str(math.ceil(error.retry_after))}
    return {}


def problem(error: ServiceError, status: int | None = None) -> dict[str, Any]:
    """An error as RFC 9457 has it; `field` is an extension member. The status is that of its class if none is given."""
    name = type(error).__name__
    field = error.field if isinstance(error, InputError) else None
    return {
        "type": URN + name,
        "title": TITLES.get(type(error), name),
        "status": status or status_of(error),
        "detail": str(error),
        **({"field": field} if field is not None else {}),
    }


TITLES: dict[type[ServiceError], str] = {
    InputError: "The input is not valid",
    MalformedBody: "The body cannot be parsed",
    TooLarge: "The request is too large",
    UnsupportedMedia: "The media type is not supported",
    NotFound: "Not found",
    Unauthorized: "A key is needed",
    Forbidden: "The key does not allow this",
    Overloaded: "The queue is full",
    RateLimited: "Too many requests",
    NotReady: "Not ready",
    DeadlineExceeded: "The deadline passed",
    SlowRequest: "The request came too slowly",
    Unreachable: "The server cannot be reached",
    EngineError: "The engine failed",
}


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON by orjson, which also reads numpy's numbers."""
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, dict(headers or {}), media_type="application/json")


def deadline(request: Request) -> float | None:
    """The deadline that the request names, on the clock of `time.monotonic()`. Raises InputError for no number."""
    text = request.headers.get(TIMEOUT_HEADER)
    return None if text is None else deadline_of(text)


def deadline_of(text: str) -> float:
    """The same, of the header's text."""
    try:
        milliseconds = float(text)
    except ValueError:
        milliseconds = math.nan
    if not 0 < milliseconds < math.inf:
        raise InputError(f"{TIMEOUT_HEADER} must be a positive number of milliseconds, not {text!r}", TIMEOUT_HEADER)
    return time.monotonic() + milliseconds / 1000


def text_of(error: ServiceError) -> str:
    """The message, after the field that it is about."""
    field = error.field if isinstance(error, InputError) else None
    return str(error) if field is None else f"{field}: {error}"


def server_timing(timing: Timing) -> str:
    """The stages of one item as the header `Server-Timing` has them."""
    return (
        f"pre;dur={timing.preprocess * 1000:.3f}, queue;dur={timing.queue * 1000:.3f}, "
        f"infer;dur={timing.inference * 1000:.3f}, post;dur={timing.postprocess * 1000:.3f}"
    )


class Protocol:
    """Routes under one prefix, and the form that errors take there; or a server of its own, such as one for gRPC.

    Class attributes:
        prefix: of its paths. The longest that fits a path decides how an error is told there.

    Attributes:
        listening: where a server of its own listens, once it does, in words.
    """

    prefix: ClassVar[str] = ""
    listening: str | None = None

    def __init__(self, service: Service) -> None:
        self.service = service

    def router(self) -> APIRouter:
        """The routes, with their full paths."""
        return APIRouter()

    def direct(self, scope: Scope) -> ASGIApp | None:
        """What answers this request ahead of the router, for routes where every microsecond counts.

        It sets `scope["route"]` to something whose `path` is the template of the route, for the metrics.
        """
        return None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs beside the server, from its start to its stop."""
        yield

    def error(self, error: ServiceError, status: int | None = None) -> Response:
        """How this protocol says that a request failed. Problem details, unless it has a form of its own."""
        content = problem(error, status)
        media = "application/problem+json"
        return Response(orjson.dumps(content), content["status"], retry_headers(error), media_type=media)

    def document(self, openapi: dict[str, Any]) -> None:
        """Completes the OpenAPI document with what is known only once models are loaded (in place)."""
        return
