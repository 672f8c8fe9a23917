"""`/demo`: pages that show what the models do, if `--demo` asks for them.

Knows nothing of the pages but that one package registered an application for them under `wander.pages`. They ask this
server over HTTP, as any other client does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import entry_points
from types import SimpleNamespace
from typing import Any, ClassVar

from starlette.types import ASGIApp, Scope

from serving.protocols.base import Protocol
from serving.service import Service
from wander.errors import MissingDependency, UsageError

PAGES = "wander.pages"
ROUTE = SimpleNamespace(path="/demo")
"""For the metrics: what the pages are made of has no routes of its own there."""


class Demo(Protocol):
    """Raises, when it is made, UsageError for settings that cannot be, and MissingDependency without the pages."""

    prefix: ClassVar[str] = "/demo"

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        settings = service.settings
        self._pages: Any = None
        if not settings.demo:
            return
        if settings.workers > 1:
            raise UsageError("--demo needs a single process; for several workers run: wander demo --url URL")
        if service.keys and settings.demo_key is None:
            raise UsageError(
                "--demo on a server with keys needs --demo-key, with which it asks for all who reach its page"
            )
        found = list(entry_points(group=PAGES, name="demo"))
        if not found:
            raise MissingDependency("the demonstration is not installed; run: pip install 'wander[demo]'")
        self._pages = found[0].load()(key=settings.demo_key)

    def direct(self, scope: Scope) -> ASGIApp | None:
        path = scope["path"]
        if self._pages is None or not (path == self.prefix or path.startswith(f"{self.prefix}/")):
            return None
        scope["route"] = ROUTE
        pages: ASGIApp = self._pages
        return pages

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        if self._pages is None:
            yield
            return
        async with self._pages.running():
            yield


plugin = Demo
