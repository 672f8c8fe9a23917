"""The page as an ASGI application under `/demo`: made of the models that the server has, and nothing more let through.

Gradio serves it, but is not trusted with what strangers send: only the routes that the page needs are passed on, no
address that a request names is fetched, and no file is read that was not uploaded to it. Gradio is imported when this
application runs, not before.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import tempfile
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from demo.service import Service
from wander.errors import MissingDependency, NotReady, ServiceError, Unreachable

PATH = "/demo"
API = "/gradio_api"
UPLOADED = "gradio"
"""Folder, in the one of this application, of what visitors upload and of what they are sent."""
GETS = re.compile(
    r"/?|/config/?|/theme\.css|/favicon\.ico|/(assets|static)/[\w./-]+"
    rf"|{API}/(info|app_id|startup-events|upload_progress|queue/data|theme\.css|heartbeat/\w+|file=/[^:]*)"
)
POSTS = re.compile(rf"{API}/(upload|queue/join|cancel|reset)/?")
JOIN = f"{API}/queue/join"
INLINE = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL)
MANIFEST = b'<link rel="manifest" href="/manifest.json" />'
"""Of an application to be installed, which this is not; in its place stands that there is no icon to be fetched."""
ICON = b'<link rel="icon" href="data:,">'
POLICY = (
    "default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; font-src 'self' data:; connect-src 'self' blob:; worker-src 'self' blob:; "
    "frame-ancestors 'none'; base-uri 'self'; form-action 'none'"
)
"""Gradio sets styles on its elements; of scripts, those of this page alone run, by their hashes."""
SAYS = '<!doctype html><meta charset="utf-8">{refresh}<title>wander</title><p>{text}</p>'
KEPT = "private, max-age=86400"
"""For files whose names change with their content."""


@dataclass
class Built:
    """A page that is being served."""

    shape: tuple[Any, ...]
    app: ASGIApp
    stack: AsyncExitStack


class Demo:
    """Runs within `running`.

    Args:
        url: of the server that is asked; None for the one that this application is mounted in.
        key: with which it is asked, for every visitor.

    Raises MissingDependency without Gradio.
    """

    def __init__(self, url: str | None = None, key: str | None = None) -> None:
        if find_spec("gradio") is None:
            raise MissingDependency("gradio is not installed; run: pip install 'wander[demo]'")
        self._url, self._key = url, key
        self._lock = asyncio.Lock()
        self._built: Built | None = None
        self._folder: Path | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        with tempfile.TemporaryDirectory(prefix="wander-demo-", ignore_cleanup_errors=True) as folder:
            self._folder = Path(folder).resolve()
            importing = asyncio.create_task(asyncio.to_thread(importlib.import_module, "demo.page"))
            try:
                yield
            finally:
                await importing
                if self._built is not None:
                    await self._built.stack.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"].removeprefix(PATH)
        allowed = {"GET": GETS, "HEAD": GETS, "POST": POSTS}.get(scope["method"])
        if allowed is None or not allowed.fullmatch(path):
            await PlainTextResponse("there is no such page", 404)(scope, receive, send)
        elif path == "":
            await RedirectResponse(f"{PATH[1:]}/")(scope, receive, send)  # the page's own addresses begin with ./
        elif path == "/":
            await self._page(scope, receive, send)
        elif self._built is None:
            await PlainTextResponse("load the page first", 404)(scope, receive, send)
        elif path.startswith(JOIN):
            await self._join(scope, receive, send)
        else:
            kept = _kept(send) if path.startswith(("/assets", "/static")) else send
            await _passed_on(self._built.app, scope, receive, kept)

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The page of the models that there are now, and its policy."""
        try:
            built = await self._current(scope)
        except ServiceError as error:
            soon = isinstance(error, NotReady | Unreachable)
            refresh = '<meta http-equiv="refresh" content="2">' if soon else ""
            text = "The models are being loaded; this page will follow." if isinstance(error, NotReady) else str(error)
            said = SAYS.format(refresh=refresh, text=text.replace("<", "&lt;"))
            await HTMLResponse(said, 503 if soon else 502)(scope, receive, send)
            return
        start: Message = {}
        parts: list[bytes] = []

        async def keep(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                parts.append(message.get("body", b""))

        headers = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        await built.app({**scope, "headers": headers}, receive, keep)
        body = b"".join(parts).replace(MANIFEST, ICON)
        scripts = " ".join(f"'sha256-{b64encode(sha256(one).digest()).decode()}'" for one in INLINE.findall(body))
        told = MutableHeaders(raw=start["headers"])
        told["content-length"] = str(len(body))
        told["content-security-policy"] = POLICY.format(scripts=scripts)
        await send(start)
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _current(self, scope: Scope) -> Built:
        """Raises the errors of a service, if the server does not tell its models."""
        service = Service(self._url or _own_address(scope), self._key, mounted=self._url is None)
        models = await asyncio.to_thread(service.models)
        shape = tuple(model.shape for model in models)
        async with self._lock:
            if self._built is None or self._built.shape != shape:
                assert self._folder is not None
                page = await asyncio.to_thread(importlib.import_module, "demo.page")
                host = await asyncio.to_thread(page.mounted, service, models, PATH, self._folder, UPLOADED)
                stack = AsyncExitStack()
                await stack.enter_async_context(host.router.lifespan_context(host))
                if self._built is not None:
                    await self._built.stack.aclose()
                self._built = Built(shape, host, stack)
            return self._built

    async def _join(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What a visitor asks of the page, if the files that it names were uploaded to it."""
        assert self._built is not None
        assert self._folder is not None
        body = await Request(scope, receive).body()
        try:
            fine = await asyncio.to_thread(_uploaded, json.loads(body), self._folder / UPLOADED)
        except (ValueError, RecursionError):
            fine = False
        if not fine:
            await PlainTextResponse("a file must be uploaded before it is named", 422)(scope, receive, send)
            return
        again = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> Message:
            return next(again, None) or await receive()

        await self._built.app(_own(scope), replay, send)


def _own(scope: Scope) -> Scope:
    """A copy, for Gradio's routers write into it."""
    return dict(scope)


async def _passed_on(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Raises what the server raises while the body is read; Gradio would answer it with 500."""
    refused: list[ServiceError] = []

    async def reading() -> Message:
        try:
            return await receive()
        except ServiceError as error:
            refused.append(error)
            raise

    async def telling(message: Message) -> None:
        if not refused:
            await send(message)

    try:
        await app(_own(scope), reading, telling)
    except Exception as error:
        if refused:  # Gradio may have wrapped it
            raise refused[0] from error
        raise
    if refused:
        raise refused[0]


def _own_address(scope: Scope) -> str:
    """Where this very server listens, whatever a request says of its host."""
    host, port = scope["server"]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _uploaded(value: Any, folder: Path) -> bool:
    """Whether every file that is named anywhere in it lies in the folder."""
    if isinstance(value, list):
        return all(_uploaded(one, folder) for one in value)
    if not isinstance(value, dict):
        return True
    path = value.get("path")
    if path is not None and not (isinstance(path, str) and Path(path).resolve().is_relative_to(folder)):
        return False
    return all(_uploaded(one, folder) for one in value.values())


def _kept(send: Send) -> Send:
    async def tell(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(raw=message["headers"])["cache-control"] = KEPT
        await send(message)

    return tell
