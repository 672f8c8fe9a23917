"""Limits that hold before anything is parsed."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wander.errors import TooLarge


class BodyLimit:
    """ASGI middleware: raises TooLarge into the application once a body exceeds the limit, before it is read whole.

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
