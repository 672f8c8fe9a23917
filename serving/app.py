"""The application: middleware, the discovered protocols, start and stop. Nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.auth.access import Guard, is_loopback
from serving.metrics import Metrics
from serving.middleware import BodyLimit, Errors, Hangups, Hardened, Observed
from serving.protocols import Protocol, protocols
from serving.repository import Repository
from serving.service import Service
from serving.settings import Settings, origins
from wander import __version__
from wander.errors import InputError, NotFound, ServiceError, WanderError

if TYPE_CHECKING:
    from serving.tracing import Tracing
    from serving.workers.team import Team

log = logging.getLogger(__name__)

CORS: dict[str, Any] = {
    "allow_methods": ("GET", "POST", "PUT", "DELETE"),
    "allow_headers": ("Authorization", "X-Request-Timeout-Ms", "X-Request-Id", "Inference-Header-Content-Length"),
    "expose_headers": ("Retry-After", "Server-Timing", "X-Request-Id", "Inference-Header-Content-Length"),
}
"""What pages of the origins that are let in may send and see."""

TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False}
"""Of FastAPI, which would look for OpenTelemetry at every request. What is counted and traced here is ours."""


def create_app(
    settings: Settings | None = None,
    *,
    team: Team | None = None,
    repository: Callable[[Settings, Metrics], Repository] = Repository,
    indexes: bool = True,
    on_ready: Callable[[Service], None] = lambda _: None,
    on_failure: Callable[[WanderError], None] | None = None,
) -> FastAPI:
    """The server for the models in `settings.models`.

    It answers `/livez` at once and everything else when the models are loaded.

    Args:
        team: the processes that serve together with this one.
        repository: makes what loads the models.
        indexes: whether this application may hold indexes; of those that share a folder of them, one may.
        on_ready: called when the models are loaded.
        on_failure: called if they cannot be, or if a protocol's own server cannot run. Without it, starting fails.
    """
    settings = settings or Settings()
    metrics = Metrics()
    first = indexes and (team is None or team.number == 0)
    service = Service(repository(settings, metrics), settings, metrics, first=first)
    tracing = _tracing(settings)
    service.tracing = tracing
    mounted = [protocol(service) for _, protocol in protocols]

    async def load() -> None:
        try:
            await asyncio.to_thread(service.repository.load)
        except WanderError as error:
            if on_failure is None:
                raise
            on_failure(error)
        else:
            on_ready(service)
            if settings.model_control == "poll":
                await _follow(service.repository, settings.poll_s)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if tracing is not None:
                stack.push_async_callback(asyncio.to_thread, tracing.close)
            stack.push_async_callback(asyncio.to_thread, service.close)
            loading = asyncio.create_task(load())
            stack.push_async_callback(_ended, loading)
            for protocol in mounted:
                try:
                    await stack.enter_async_context(protocol.running())
                except WanderError as error:
                    if on_failure is None:
                        raise
                    on_failure(error)
            # A worker listens when it can answer: until then the others do.
            while (on_failure is None or team is not None) and not service.repository.ready:
                await asyncio.wait([loading], timeout=0.01)
                if loading.done():
                    await loading
                    break
            yield

    # The document has a page of our own, see `serving.protocols.docs`. A path is right or wrong: none is redirected.
    app = FastAPI(
        title="wander",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=TELEMETRY,
    )
    app.state.service, app.state.protocols = service, mounted
    if not service.keys and not is_loopback(settings.host) and (team is None or team.number == 0):
        log.warning("everyone who reaches %s may infer and write indexes; to let in keys only: --keys", settings.host)
    for protocol in mounted:
        app.include_router(protocol.router())

    def respond(path: str, error: ServiceError | HTTPException) -> Response:
        protocol = _of_path(mounted, path)
        if isinstance(error, ServiceError):
            return protocol.error(error)
        if error.status_code == 404:
            return protocol.error(NotFound(f"there is no route {path}"))
        response = protocol.error(InputError(str(error.detail)), error.status_code)
        response.headers.update(error.headers or {})
        return response

    async def of_framework(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return respond(request.url.path, error)

    app.add_exception_handler(HTTPException, of_framework)

    # From the inside out: what is added last sees a request first.
    app.add_middleware(Direct, mounted=mounted)
    app.add_middleware(Hangups, prefixes=("/v1/", "/v2/"))
    if team is not None:
        from serving.workers.team import Teamwork

        app.add_middleware(Teamwork, team=team)
    app.add_middleware(Guard, keys=service.keys, metrics=metrics, trusted=team.sent if team else lambda _: False)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s)
    app.add_middleware(Errors, respond=respond)
    if settings.cors_origin is not None:
        app.add_middleware(CORSMiddleware, allow_origins=origins(settings.cors_origin), **CORS)
    app.add_middleware(Hardened)
    app.add_middleware(Observed, metrics=metrics, access_log=settings.access_log, tracing=tracing)
    _complete_openapi(app, mounted)
    return app


class Direct:
    """Lets a protocol answer a request itself, ahead of the router, where every microsecond counts."""

    def __init__(self, app: ASGIApp, mounted: list[Protocol]) -> None:
        self.app = app
        self.mounted = [p for p in mounted if type(p).direct is not Protocol.direct]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            for protocol in self.mounted:
                if (answer := protocol.direct(scope)) is not None:
                    await answer(scope, receive, send)
                    return
        await self.app(scope, receive, send)


def _tracing(settings: Settings) -> Tracing | None:
    if settings.otlp_endpoint is None:
        return None
    from serving.tracing import Tracing

    return Tracing(settings)


async def _follow(repository: Repository, seconds: float) -> None:
    """Looks at the folder again and again."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await asyncio.to_thread(repository.refresh)
        except Exception:  # what is served now must go on being served, and the folder be looked at again
            log.exception("the folder of models could not be looked at")


async def _ended(task: asyncio.Task[None]) -> None:
    """Waits for what loads models, or ends what follows them."""
    if not task.done():
        task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _of_path(mounted: list[Protocol], path: str) -> Protocol:
    fitting = [protocol for protocol in mounted if path.startswith(protocol.prefix)]
    return max(fitting, key=lambda protocol: len(protocol.prefix))


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
