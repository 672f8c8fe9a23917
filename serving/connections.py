"""The connections of uvicorn, with the limits that it lacks: on their number, on what stands before and between the
bytes of a body, and on clients that send or read too slowly.

Knows no route and no application: whom it refuses gets a line of text, or no answer at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from serving.coalescing import Coalesced
from serving.settings import Settings


@dataclass(frozen=True)
class ConnectionLimits:
    """What one connection may do.

    Attributes:
        connections: of all clients together.
        head_bytes: of the request line and the headers; also of what stands between two pieces of a body (the
            extensions of its chunks), and behind it (its trailers).
        url_bytes, headers: of the head.
        head_s: seconds from the first byte of a request, or from the connection, to the last of its head.
        body_s: from there to the end of its body. The application refuses a slow body sooner, and in a form of its own;
            this ends what is sent behind an answer.
        stall_s: for which nothing that was written is taken by the client.
        check_s: how often the times are looked at.
    """

    connections: int = 1000
    head_bytes: int = 64 << 10
    url_bytes: int = 8 << 10
    headers: int = 100
    head_s: float = 10.0
    body_s: float = 65.0
    stall_s: float = 30.0
    check_s: float = 1.0

    @classmethod
    def of(cls, settings: Settings) -> ConnectionLimits:
        return cls(connections=settings.max_connections, body_s=settings.body_timeout_s + 5)


class Connection(HttpToolsProtocol):
    """One connection. Time is looked at now and then, for all of it at once, so that requests pay nothing for it."""

    def __init__(self, *arguments: Any, limits: ConnectionLimits, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._limits = limits
        self._until: float | None = None  # when the part of a request that is being read must be there
        self._in_body = False
        self._unseen = 0  # bytes that were read since the last that the application could see
        self._unsent = (0, 0.0)  # bytes that waited to be sent, and since when so many
        self._refusal = 400, ""
        self._running: RequestResponseCycle | None = None
        self._check: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._coalesced = Coalesced(transport)
        super().connection_made(cast(asyncio.Transport, self._coalesced))
        # Sockets of the other kind are those of our own processes.
        from_network = isinstance(transport.get_extra_info("sockname"), tuple)
        if from_network and len(self.connections) > self._limits.connections:
            self._refuse(503, "too many connections", b"retry-after: 1\r\n")
            return
        self._until = self.loop.time() + self._limits.head_s
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._check is not None:
            self._check.cancel()
        super().connection_lost(exc)
        if self._running is not None and not self._running.response_complete:
            # uvicorn tells it to the last request alone, and this one may have others behind it.
            self._running.disconnected = True
            self._running.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._until is None:
            self._until = self.loop.time() + self._limits.head_s
        self._unseen += len(data)
        super().data_received(data)
        if self._unseen > self._limits.head_bytes and not self.transport.is_closing():
            self._refuse(431, "the head of the request is too large")

    def on_message_begin(self) -> None:
        self._in_body = False
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body:  # what comes behind a body is no header that anyone asked for
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        limits = self._limits
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if len(self.url) > limits.url_bytes:
            self._refusal = 414, "the address is too long"
        elif len(self.headers) > limits.headers or size > limits.head_bytes:
            self._refusal = 431, "the request has too many headers, or too long ones"
        if self._refusal[0] != 400:
            raise ValueError(self._refusal[1])  # with which uvicorn ends the connection, see below
        self._unseen = 0
        self._in_body = True
        self._until = self.loop.time() + limits.body_s
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unseen = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unseen = 0
        self._until = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._coalesced.flush()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        status, text = self._refusal
        self._refuse(status, text or msg)

    def _look(self) -> None:
        """Ends what takes too long."""
        now, limits = self.loop.time(), self._limits
        waiting = self.transport.get_write_buffer_size()
        if not waiting or waiting != self._unsent[0]:
            self._unsent = waiting, now
        self._check = self.loop.call_later(limits.check_s, self._look)
        if waiting and now - self._unsent[1] > limits.stall_s:
            self.transport.abort()
        elif self._until is not None and now > self._until and not self.flow.read_paused:
            self._until = None
            self._refuse(408, "the request came too slowly")

    def _refuse(self, status: int, text: str, header: bytes = b"") -> None:
        """Ends the connection, with a line of text if no answer has been begun."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            line = text.encode()
            head = b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\n" + header
            self.transport.write(STATUS_LINE[status] + head + b"content-length: %d\r\n\r\n%s" % (len(line), line))
        self.transport.close()


def limited(settings: Settings) -> type[asyncio.Protocol]:
    """What uvicorn is to make its connections with (`uvicorn.Config(http=..)`)."""
    return made_with(ConnectionLimits.of(settings))


def made_with(limits: ConnectionLimits) -> type[asyncio.Protocol]:
    """The same with limits of one's own."""
    make: Callable[..., Connection] = partial(Connection, limits=limits)
    return cast(type[asyncio.Protocol], make)
