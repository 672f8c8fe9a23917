"""What every request passes through, whatever answers it. ASGI middleware: knows no route and no model."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from prometheus_client import Histogram
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.metrics import Metrics
from wander.errors import EngineError, ServiceError, TooLarge

log = logging.getLogger(__name__)

CLIENT_GONE = 499
"""Status, for the metrics alone, of a request whose client hung up: the one that nginx gives it."""
PATIENCE_S = 0.01
"""After so long a request is watched for a client that hangs up; most are answered before, and need not be."""


class Timed:
    """Every request's duration by route and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics
        self._seen: dict[tuple[str, int], Histogram] = {}  # looking one up by its labels takes longer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            # The template of the route, not the path that was asked for: clients must not be able to make labels.
            key = getattr(scope.get("route"), "path", "none"), status
            if (histogram := self._seen.get(key)) is None:
                histogram = self._seen[key] = self.metrics.requests.labels(key[0], str(status))
            histogram.observe(time.monotonic() - started)


class Errors:
    """Every error leaves in the form of the protocol under whose path it happened.

    Args:
        respond: makes the response for a path and an error.
    """

    def __init__(self, app: ASGIApp, respond: Callable[[str, ServiceError], Response]) -> None:
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
        except ServiceError as error:
            response = self.respond(scope["path"], error)
        except ClientDisconnect:
            log.debug("the client of %s hung up before its body was whole", scope["path"])
            response = Response(status_code=CLIENT_GONE)
        except Exception:
            log.exception("unforeseen error in %s %s", scope["method"], scope["path"])
            if begun:
                raise
            response = self.respond(scope["path"], EngineError("an internal error; the server's log tells more"))
        await response(scope, receive, send)


class BodyLimit:
    """Raises TooLarge into the application once a body exceeds the limit, before it is read whole.

    A body that announces its length is refused at its first byte; one that does not is counted as it comes.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = int(next((value for name, value in scope["headers"] if name == b"content-length"), b"0"))
        size = 0

        async def limited() -> Message:
            nonlocal size
            if announced > self.max_bytes:
                raise TooLarge(f"the body has {announced} bytes; at most {self.max_bytes} are read")
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.max_bytes:
                raise TooLarge(f"the body has more than the {self.max_bytes} bytes that are read")
            return message

        await self.app(scope, limited, send)


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
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
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
