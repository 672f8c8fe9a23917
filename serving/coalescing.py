"""What is written to a connection in one turn of the event loop goes out at once.

uvicorn writes the head of an answer and its body one after the other, and uvloop hands each to the system at once: two
calls for every answer, which the client is woken up twice for. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
from typing import Any

MOST = 64 << 10
"""Bytes that wait for the end of the turn; with more, all go out, so that the transport can say that it is full."""


class Coalesced:
    """A transport of asyncio that gathers small writes. Everything else is the transport's own."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._waiting: list[bytes] = []
        self._size = 0
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info

    def write(self, data: bytes) -> None:
        if not self._waiting:
            self._loop.call_soon(self.flush)
        self._waiting.append(data)
        self._size += len(data)
        if self._size > MOST:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            data = self._waiting[0] if len(self._waiting) == 1 else b"".join(self._waiting)
            self._waiting.clear()
            self._size = 0
            self._transport.write(data)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
