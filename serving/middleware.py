"""What every request passes through, whatever answers it. ASGI middleware: knows no route and no model."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from prometheus_client import Histogram
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.logs import REQUEST_ID, access, request_id
from serving.metrics import Metrics
from serving.wire import REQUEST_ID_HEADER, UNFORESEEN
from wander.errors import EngineError, ServiceError, SlowRequest, TooLarge, Unauthorized

if TYPE_CHECKING:
    from serving.tracing import Tracing

log = logging.getLogger(__name__)

CLIENT_GONE = 499
"""Status, for the metrics alone, of a request whose client hung up: the one that nginx gives it."""
ID_HEADER = REQUEST_ID_HEADER.encode()
PATIENCE_S = 0.05
"""After so long a request is watched for a client that hangs up; most are answered before, and need not be."""


class Observed:
    """Gives every request an id, and tells how long it took by route and status: to metrics, log and traces."""

    def __init__(
        self, app: ASGIApp, metrics: Metrics, access_log: bool = False, tracing: Tracing | None = None
    ) -> None:
        self.app = app
        self.metrics = metrics
        self.access_log = access_log
        self.tracing = tracing
        self._seen: dict[tuple[str, int], Histogram] = {}  # looking one up by its labels takes longer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif self.tracing is None:
            await self._observe(scope, receive, send)
        else:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            with self.tracing.request(scope["method"], headers) as span:
                status = await self._observe(scope, receive, send)
                self.tracing.finish(span, scope["method"], _route(scope), status, REQUEST_ID.get())

    async def _observe(self, scope: Scope, receive: Receive, send: Send) -> int:
        started, status = time.monotonic(), 500
        id = request_id(next((value for name, value in scope["headers"] if name == ID_HEADER), None))
        REQUEST_ID.set(id)
        header = (ID_HEADER, id.encode())

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            seconds = time.monotonic() - started
            key = _route(scope), status
            if (histogram := self._seen.get(key)) is None:
                histogram = self._seen[key] = self.metrics.requests.labels(key[0], str(status))
            histogram.observe(seconds)
            if self.access_log:
                _log(scope, status, seconds)
        return status


def _route(scope: Scope) -> str:
    """The template of the route, not the path that was asked for: clients must not be able to make labels."""
    return getattr(scope.get("route"), "path", "none")


def _log(scope: Scope, status: int, seconds: float) -> None:
    """The path as it was sent, percent-encoded, so that it cannot forge a line; without its query."""
    path = scope.get("raw_path") or scope["path"].encode("ascii", "replace")
    fields = {
        "method": scope["method"],
        "path": path.partition(b"?")[0].decode("ascii", "replace"),
        "route": _route(scope),
        "status": status,
        "ms": round(seconds * 1000, 3),
    }
    access.info("%(method)s %(path)s %(status)d %(ms).1f ms", fields, extra={"fields": fields})


HARDENED = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
}
"""What browsers are told with every answer that says nothing else itself."""


class Hardened:
    """No answer is kept, guessed at, framed, or run as a page; a page of ours says what it needs."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._headers = [(name.lower().encode(), value.encode()) for name, value in HARDENED.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def harden(message: Message) -> None:
            if message["type"] == "http.response.start":
                said = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(h for h in self._headers if h[0] not in said)]
            await send(message)

        await self.app(scope, receive, harden if scope["type"] == "http" else send)


class Errors:
    """Every error leaves in the form of the protocol under whose path it happened.

    Args:
        respond: makes the response for a path and an error.
    """

    def __init__(self, app: ASGIApp, respond: Callable[[str, ServiceError | HTTPException], Response]) -> None:
        self.app = app
        self.respond = respond

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def watch(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, watch)
            return
        except (ServiceError, HTTPException) as error:
            response = self.respond(scope["path"], error)
            if isinstance(error, Unauthorized):
                response.headers["WWW-Authenticate"] = "Bearer"
        except ClientDisconnect:
            log.debug("the client of %s hung up before its body was whole", scope["path"])
            response = Response(status_code=CLIENT_GONE)
        except Exception:
            log.exception("unforeseen error in %s %s", scope["method"], scope["path"])
            if begun:
                raise
            response = self.respond(scope["path"], EngineError(UNFORESEEN))
        await response(scope, receive, send)


class BodyLimit:
    """Raises TooLarge into the application once a body exceeds the limit, before it is read whole, and SlowRequest if
    it is not there in time.

    A body that announces its length is refused at its first byte; one that does not is counted as it comes.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_s: float) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced, size, whole, late = 0, 0, False, False
        for name, value in scope["headers"]:
            if name == b"content-length":
                announced = int(value)
        reading: asyncio.Task[Any] | None = None
        timer: asyncio.TimerHandle | None = None

        def expire() -> None:
            nonlocal late
            late = True
            if reading is not None:
                reading.cancel()

        async def limited() -> Message:
            nonlocal size, whole, reading, timer
            if announced > self.max_bytes:
                raise TooLarge(f"the body has {announced} bytes; at most {self.max_bytes} are read")
            if whole:  # what is waited for now is the client that hangs up
                return await receive()
            if timer is None:
                timer = asyncio.get_running_loop().call_later(self.timeout_s, expire)
            reading = asyncio.current_task()
            assert reading is not None
            try:
                message = await receive()
            except asyncio.CancelledError:
                if not late or reading.uncancel() > 0:  # someone else wants it to end
                    raise
            finally:
                reading = None
            if late:
                raise SlowRequest(f"the body did not come whole within {self.timeout_s:g} s")
            if not message.get("more_body"):
                whole = True
                timer.cancel()
            size += len(message.get("body", b""))
            if size > self.max_bytes:
                raise TooLarge(f"the body has more than the {self.max_bytes} bytes that are read")
            return message

        try:
            await self.app(scope, limited, send)
        finally:
            if timer is not None:
                timer.cancel()


class Hangups:
    """Cancels what is done for a client that hung up, once its body was read; its rows leave the queue with it.

    Args:
        prefixes: of the paths that are watched; they must not read on after their body.
    """

    def __init__(self, app: ASGIApp, prefixes: tuple[str, ...]) -> None:
        self.app = app
        self.prefixes = prefixes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].startswith(self.prefixes):
            await self.app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None
        watcher: asyncio.Task[None] | None = None
        timer: asyncio.TimerHandle | None = None
        hung_up = False

        async def watch() -> None:
            nonlocal hung_up
            while (await receive())["type"] != "http.disconnect":
                pass
            hung_up = True
            task.cancel()

        def begin() -> None:
            nonlocal watcher
            watcher = loop.create_task(watch())

        async def noticing() -> Message:
            nonlocal timer
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body") and timer is None:
                timer = loop.call_later(PATIENCE_S, begin)
            return message

        try:
            await self.app(scope, noticing, send)
        except asyncio.CancelledError:
            if not hung_up:
                raise
            task.uncancel()
            log.debug("the client of %s hung up before it was answered", scope["path"])
            await Response(status_code=CLIENT_GONE)(scope, receive, send)
        finally:
            if timer is not None:
                timer.cancel()
            if watcher is not None:
                watcher.cancel()
