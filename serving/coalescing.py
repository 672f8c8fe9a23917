"""The head of an answer goes out with the body behind it.

uvicorn writes one after the other, and uvloop hands each to the system at once: two calls for every answer, for which
the client is woken up twice.
"""

from __future__ import annotations

import asyncio
from typing import Any

HEAD, WITH_BODY = b"HTTP/1.1 ", b"\r\ncontent-length: "
"""How a head begins, and what says that its body is there already: what is streamed has no such line."""


class Coalesced:
    """A transport of asyncio that keeps a head until the next write, `flush` or `close`. The rest is its own."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(HEAD) and WITH_BODY in data:
            self._head = data
            return
        self._transport.write(data)

    def flush(self) -> None:
        """For answers that have no body after all, as those to HEAD."""
        if self._head:
            self._transport.write(self._head)
            self._head = b""

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
