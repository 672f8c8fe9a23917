"""What one worker knows of the others, and what it asks them.

The first worker holds what there can be only once: the indexes, and the control of models. The others pass on what is
meant for it; it repeats to them what changes models. Metrics are those of all. Workers talk HTTP over Unix sockets in a
folder that only their user can enter.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import httpx
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.workers.merging import merged
from wander.errors import NotReady

SECRET_HEADER = b"x-wander-worker"
FIRST = ("/v1/retrieval", "/v2/repository")
"""Paths below which only the first worker answers."""
METRICS = "/metrics"
HOP_BY_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te", b"trailer", b"host"}
PASSED_ON = SimpleNamespace(path="passed on")
"""The route, for the metrics; the worker that answers counts it under its own."""
TIMEOUT_S = 600.0
"""Of a request to another worker: loading a model takes its time."""


@dataclass(frozen=True)
class Team:
    """Attributes:

    number: of this worker, from 0.
    size: how many there are.
    folder: of their sockets.
    secret: with which a worker shows others that it is one.
    """

    number: int
    size: int
    folder: Path
    secret: str = field(repr=False)

    def socket(self, number: int | None = None) -> Path:
        return self.folder / f"{self.number if number is None else number}.sock"

    @property
    def others(self) -> list[int]:
        return [number for number in range(self.size) if number != self.number]

    def client(self, number: int) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket(number)))
        return httpx.AsyncClient(transport=transport, base_url="http://worker", timeout=TIMEOUT_S)

    def sent(self, scope: Scope) -> bool:
        """Whether a request comes from another worker."""
        given = next((value for name, value in scope["headers"] if name == SECRET_HEADER), b"")
        return hmac.compare_digest(given, self.secret.encode())


class Teamwork:
    """ASGI middleware: what one worker cannot answer alone.

    It stands within authorisation, which the first worker that sees a request has done for all.
    """

    def __init__(self, app: ASGIApp, team: Team) -> None:
        self.app = app
        self.team = team
        self._clients = {number: team.client(number) for number in team.others}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self.team.sent(scope):
            await self.app(scope, receive, send)
        elif scope["path"] == METRICS:
            await self._metrics(scope, receive, send)
        elif not scope["path"].startswith(FIRST):
            await self.app(scope, receive, send)
        elif self.team.number:
            await self._pass_on(scope, receive, send)
        elif scope["path"].startswith("/v2/repository/models") and scope["method"] == "POST":
            await self._repeat(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The first worker's answer as it is, while it comes."""
        scope["route"] = PASSED_ON
        request = Request(scope, receive)

        async def body() -> AsyncIterator[bytes]:
            async for chunk in request.stream():
                yield chunk

        asked = self._request(0, scope, body())
        try:
            answer = await self._clients[0].send(asked, stream=True)
        except httpx.TransportError as error:
            raise NotReady("the worker that holds the indexes and controls the models is not there now") from error
        headers = [(name, value) for name, value in answer.headers.raw if name.lower() not in HOP_BY_HOP]
        response = StreamingResponse(answer.aiter_raw(), answer.status_code)
        response.raw_headers = headers
        try:
            await response(scope, receive, send)
        finally:
            await answer.aclose()

    async def _repeat(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A change of models here, and if it succeeded, everywhere else. The first failure is the answer."""
        body = await Request(scope, receive).body()
        status, start, rest = 0, None, []

        async def again() -> dict[str, object]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def keep(message: dict[str, object]) -> None:
            nonlocal status, start
            if message["type"] == "http.response.start":
                start, status = message, int(str(message["status"]))
            else:
                rest.append(message)

        await self.app(scope, again, keep)  # type: ignore[arg-type]
        if status < 300:
            tried = await self._each(lambda number: self._clients[number].send(self._request(number, scope, body)))
            if failed := next((answer for answer in tried if answer is not None and not answer.is_success), None):
                response = Response(failed.content, failed.status_code, media_type=failed.headers.get("content-type"))
                await response(scope, receive, send)
                return
        assert start is not None
        for message in (start, *rest):
            await send(message)

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The sum of all workers' metrics; a worker that is not there counts for nothing."""
        sent: list[bytes] = []
        start: dict[str, object] = {}

        async def keep(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                sent.append(message.get("body", b""))  # type: ignore[arg-type]

        await self.app(scope, receive, keep)  # type: ignore[arg-type]
        own = b"".join(sent)
        if start["status"] == 200:
            tried = await self._each(lambda number: self._clients[number].send(self._request(number, scope, b"")))
            own = merged([own.decode(), *(a.text for a in tried if a is not None and a.status_code == 200)]).encode()
        headers = [(n, v) for n, v in start["headers"] if n.lower() != b"content-length"]  # type: ignore[attr-defined]
        response = Response(own, int(str(start["status"])))
        response.raw_headers = [*headers, (b"content-length", str(len(own)).encode())]
        await response(scope, receive, send)

    async def _each(self, ask: Callable[[int], Awaitable[httpx.Response]]) -> list[httpx.Response | None]:
        """The answers of all others; None for one that is not there: it starts anew, with what is then on disk."""

        async def one(number: int) -> httpx.Response | None:
            try:
                return await ask(number)
            except httpx.TransportError:
                return None

        return list(await asyncio.gather(*map(one, self.team.others)))

    def _request(self, number: int, scope: Scope, body: AsyncIterator[bytes] | bytes) -> httpx.Request:
        query = scope["query_string"].decode("latin-1")
        path = scope["raw_path"].decode("latin-1") if scope.get("raw_path") else scope["path"]
        # A client's own secret would be taken for ours, and the request for that of a client, round and round.
        headers = [(name, value) for name, value in scope["headers"] if name not in {*HOP_BY_HOP, SECRET_HEADER}]
        if isinstance(body, bytes):
            headers = [(name, value) for name, value in headers if name != b"content-length"]
        return self._clients[number].build_request(
            scope["method"],
            f"{path}?{query}" if query else path,
            content=body,
            headers=[*headers, (SECRET_HEADER, self.team.secret.encode())],
        )
