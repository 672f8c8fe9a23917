"""The application: middleware, the discovered protocols, start and stop. Nothing else."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.limits import BodyLimit
from serving.metrics import Metrics
from serving.protocols import Protocol, protocols
from serving.repository import Repository
from serving.service import Service
from serving.settings import Settings
from wander import __version__
from wander.errors import EngineError, InputError, NotFound, ServiceError, WanderError

log = logging.getLogger(__name__)

CLIENT_GONE = 499
"""Status, for the metrics alone, of a request whose client hung up: the one that nginx gives it."""


def create_app(
    settings: Settings | None = None,
    *,
    on_ready: Callable[[Service], None] = lambda _: None,
    on_failure: Callable[[WanderError], None] | None = None,
) -> FastAPI:
    """The server for the models in `settings.models`.

    It answers `/livez` at once and everything else when the models are loaded.

    Args:
        on_ready: called when they are.
        on_failure: called if they cannot be. Without it, starting fails.
    """
    settings = settings or Settings()
    metrics = Metrics()
    service = Service(Repository(settings, metrics), settings, metrics)

    async def load() -> None:
        try:
            await asyncio.to_thread(service.repository.load)
        except WanderError as error:
            if on_failure is None:
                raise
            on_failure(error)
        else:
            on_ready(service)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(load())
        if on_failure is None:
            await loading
        yield
        await loading
        await asyncio.to_thread(service.close)

    app = FastAPI(title="wander", version=__version__, lifespan=lifespan, openapi_url="/openapi.json")
    app.state.service = service
    mounted = [protocol(service) for _, protocol in protocols]
    for protocol in mounted:
        app.include_router(protocol.router())
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(Timed, metrics=metrics)
    _report_errors(app, mounted)
    _complete_openapi(app, mounted)
    return app


class Timed:
    """ASGI middleware: every request's duration by route and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

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
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.requests.labels(route, str(status)).observe(time.monotonic() - started)


def _report_errors(app: FastAPI, mounted: list[Protocol]) -> None:
    """Every error leaves in the form of the protocol under whose prefix it happened."""

    def form(request: Request) -> Protocol:
        fitting = [p for p in mounted if request.url.path.startswith(p.prefix)]
        return max(fitting, key=lambda p: len(p.prefix))

    async def of_service(request: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        return form(request).error(error)

    async def of_framework(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 404:
            return form(request).error(NotFound(f"there is no route {request.url.path}"))
        response = form(request).error(InputError(str(error.detail)), error.status_code)
        response.headers.update(error.headers or {})
        return response

    async def gone(request: Request, error: Exception) -> Response:
        log.debug("the client of %s hung up before its body was whole", request.url.path)
        return Response(status_code=CLIENT_GONE)

    async def unforeseen(request: Request, error: Exception) -> Response:
        log.error("unforeseen error in %s %s", request.method, request.url.path, exc_info=error)
        return form(request).error(EngineError("an internal error; the server's log tells more"))

    app.add_exception_handler(ServiceError, of_service)
    app.add_exception_handler(HTTPException, of_framework)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(Exception, unforeseen)


def _complete_openapi(app: FastAPI, mounted: list[Protocol]) -> None:
    """The document names the inputs of the models that are loaded when it is asked for."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        app.openapi_schema = None
        document = plain()
        for protocol in mounted:
            protocol.document(document)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
