"""One request as it is tried, and when it is tried again. Knows no connection: what came of a try is told to it."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import httpx

from serving.client._answers import refusal, retry_after
from serving.wire import REQUEST_ID_HEADER, TIMEOUT_HEADER
from wander.errors import ConfigError, DeadlineExceeded, InputError, ServiceError, Unreachable

T = TypeVar("T")
Outcome = httpx.Response | httpx.HTTPError

REFUSED = (429, 503)
"""Statuses of requests that were refused for now: nothing was done."""
BACKOFF_S, MAX_BACKOFF_S = 0.1, 2.0
LEAST_S = 0.001


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and how its answer is read.

    Attributes:
        decode: from an answer that is a success, or has a status in `accepts`.
        body: arguments of httpx that make the body.
        again: whether it may be sent twice, should the first answer be lost.
        timeout_ms: within which all tries must be done; None for the client's own.
    """

    method: str
    path: str
    decode: Callable[[httpx.Response], T]
    params: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    accepts: tuple[int, ...] = ()
    again: bool = True
    timeout_ms: float | None = None
    request_id: str | None = None


@dataclass(frozen=True)
class Policy:
    """What all requests of a client have in common."""

    url: str
    timeout_ms: float
    tries: int

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ConfigError(f"tries must be at least 1, not {self.tries}")
        if not 0 < self.timeout_ms < math.inf:
            raise ConfigError(f"timeout_ms must be a positive number, not {self.timeout_ms}")


class Tries(Generic[T]):
    """The tries of one call, from its start to its deadline. Raises InputError for options that cannot be."""

    def __init__(self, call: Call[T], policy: Policy) -> None:
        self.call, self.policy = call, policy
        self.timeout_ms = policy.timeout_ms if call.timeout_ms is None else call.timeout_ms
        if not 0 < self.timeout_ms < math.inf:
            raise InputError(f"timeout_ms must be a positive number, not {self.timeout_ms}", "timeout_ms")
        if call.request_id is not None and not (call.request_id.isascii() and call.request_id.isprintable()):
            raise InputError("request_id must be printable ASCII", "request_id")
        self.until = time.monotonic() + self.timeout_ms / 1000
        self.done = 0

    @property
    def left(self) -> float:
        """Seconds until the deadline, never quite none."""
        return max(self.until - time.monotonic(), LEAST_S)

    def request(self) -> dict[str, Any]:
        """Arguments of `httpx.Client.request` for the next try; the server is told how much time is left."""
        left = self.left
        headers = {**self.call.body.get("headers", {}), TIMEOUT_HEADER: f"{left * 1000:.3f}"}
        if self.call.request_id is not None:
            headers[REQUEST_ID_HEADER] = self.call.request_id
        return {
            "method": self.call.method,
            "url": self.call.path,
            "params": self.call.params,
            **self.call.body,
            "headers": headers,
            "timeout": left,
        }

    def pause(self, outcome: Outcome) -> float | None:
        """Seconds until the next try; None if the outcome is final. No try begins after the deadline."""
        self.done += 1
        if self.done == self.policy.tries or not self._passing(outcome):
            return None
        wait = retry_after(outcome) if isinstance(outcome, httpx.Response) else None
        if wait is None:
            wait = min(BACKOFF_S * 2**self.done, MAX_BACKOFF_S) * random.uniform(0.5, 1)
        return wait if time.monotonic() + wait < self.until else None

    def _passing(self, outcome: Outcome) -> bool:
        """Whether another try may do better, and does no harm."""
        if isinstance(outcome, httpx.Response):
            return outcome.status_code in REFUSED and outcome.status_code not in self.call.accepts
        if isinstance(outcome, httpx.ConnectError):
            return True
        return self.call.again and isinstance(outcome, httpx.NetworkError | httpx.RemoteProtocolError)

    def result(self, outcome: Outcome) -> T:
        """The answer. Raises the ServiceError that came in its place."""
        url = self.policy.url
        if isinstance(outcome, httpx.Response):
            if outcome.is_success or outcome.status_code in self.call.accepts:
                return self.call.decode(outcome)
            raise refusal(outcome)
        if isinstance(outcome, httpx.ConnectError | httpx.UnsupportedProtocol):
            raise Unreachable(f"no server answers at {url} ({outcome})") from outcome
        if isinstance(outcome, httpx.TimeoutException):
            raise DeadlineExceeded(f"{url} did not answer within {self.timeout_ms:.0f} ms") from outcome
        raise ServiceError(f"the connection to {url} broke before the answer was whole: {outcome}") from outcome
