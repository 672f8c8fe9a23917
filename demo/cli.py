"""`wander demo`. What is heavy is imported when the command runs."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer

from wander.console import stderr
from wander.errors import UsageError


def demo(
    models: Annotated[
        Path | None, typer.Argument(help="Folder of models to serve; models, if nothing is given.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="A server that runs already, in place of a folder.")] = None,
    key: Annotated[str | None, typer.Option(help="Key for that server.", envvar="WANDER_KEY")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = None,
) -> None:
    """Try the models in a browser: a page with a tab for every task, on a server of its own or beside another."""
    if url is None:
        folder = models or Path("models")
        command = [sys.executable, "-m", "wander", "serve", str(folder), "--demo", "--host", host]
        os.execv(sys.executable, [*command, "--port", str(8000 if port is None else port)])
    if models is not None:
        raise UsageError("give a folder of models, or the --url of a server, not both")
    _beside(url, key, host, 7860 if port is None else port)


def _beside(url: str, key: str | None, host: str, port: int) -> None:
    """The page alone, for a server elsewhere, until a signal ends it."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import RedirectResponse
    from starlette.routing import Route
    from starlette.types import Receive, Scope, Send

    from demo.app import PATH, Demo
    from serving.client import Client

    with Client(url, api_key=key) as client:
        client.models()  # an address or a key that is wrong is told at once
    pages = Demo(url, key)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with pages.running():
            yield

    rest = Starlette(lifespan=lifespan, routes=[Route("/", lambda _: RedirectResponse(f"{PATH}/"))])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        ours = scope["type"] == "http" and scope["path"].startswith(PATH)
        await (pages if ours else rest)(scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(app, host, port, log_level="warning", server_header=False, ws="none"))

    async def serve() -> None:
        import asyncio

        running = asyncio.create_task(server.serve())
        while not running.done() and not server.started:
            await asyncio.sleep(0.01)
        if server.started:
            bound = server.servers[0].sockets[0].getsockname()[1]
            stderr.print(f"demonstration on http://{host}:{bound}{PATH}/ of {url}", markup=False, soft_wrap=True)
        await running

    import asyncio

    asyncio.run(serve())
