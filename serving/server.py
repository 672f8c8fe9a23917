"""One process that serves: uvicorn with our application, from its start to its drained end. Knows no other process."""

from __future__ import annotations

import asyncio
import gc
import math
import shlex
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

import uvicorn

from serving.app import create_app
from serving.connections import limited
from serving.logs import configure
from serving.service import Service
from serving.settings import Settings
from wander.errors import UsageError, WanderError

if TYPE_CHECKING:
    from serving.workers.team import Team

GARBAGE = 20_000
"""Objects after whose making the garbage collector looks at the young ones; requests in flight are many of them."""

SWITCH_S = 0.0005
"""After which a thread gives the interpreter to one that waits for it. At Python's 5 ms an engine that is done with a
batch stands idle while the event loop goes through all that came meanwhile."""

Announce = Callable[[Sequence[str]], None]
"""Is told, once all models are loaded, what is served."""


def run(
    settings: Settings, announce: Announce, *, team: Team | None = None, sockets: list[socket.socket] | None = None
) -> None:
    """Serves until a signal ends it.

    Args:
        team: the processes that serve together with this one.
        sockets: to listen on, in place of the address of the settings.

    Raises WanderError if the models cannot be loaded, UsageError if the address is taken.
    """
    configure(settings)
    failures: list[WanderError] = []
    ready = asyncio.Event()

    def fail(error: WanderError) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(settings, team=team, on_ready=lambda _: ready.set(), on_failure=fail)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            settings.host,
            settings.port,
            log_config=None,
            log_level=settings.log_level,
            access_log=False,
            server_header=False,
            ws="none",
            http=limited(settings),
            timeout_keep_alive=settings.keep_alive_s,
            timeout_graceful_shutdown=math.ceil(settings.drain_s),
        )
    )

    async def listen() -> None:
        with suppress(SystemExit):  # with which uvicorn answers an address that is taken
            await server.serve(sockets)

    async def serve() -> None:
        running = asyncio.create_task(listen())
        while not running.done() and not (server.started and ready.is_set()):
            await asyncio.sleep(0.01)
        if not running.done():
            port = (sockets or server.servers[0].sockets)[0].getsockname()[1]
            _settle()
            also = [protocol.listening for protocol in app.state.protocols if protocol.listening is not None]
            announce(served(f"http://{settings.host}:{port}", app.state.service, also))
        await running

    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(serve())
    if failures:
        raise failures[0]
    if not server.started:
        raise in_use(settings)


def _settle() -> None:
    """What is loaded by now stays: the garbage collector need not look at it, nor at requests again and again. And
    engines get the interpreter soon.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE, 20, 20)
    sys.setswitchinterval(SWITCH_S)


def in_use(settings: Settings) -> UsageError:
    address = f"{settings.host}:{settings.port}"
    return UsageError(f"could not listen on {address}; is another server there? --port 0 takes a free port")


def served(url: str, service: Service, also: Sequence[str] = ()) -> list[str]:
    """What is served, and where else; with a `curl` line for every model that can be pasted as it is."""
    pages = f"documentation: {url}/docs" + (f", demonstration: {url}/demo" if service.settings.demo else "")
    lines = [f"serving on {url}  ({pages})", *(f"serving {one}" for one in also)]
    for model in service.repository.defaults:
        first = next(iter(model.task.operations))
        path = "/".join(filter(None, (model.bundle.manifest.task.replace("_", "-"), first)))
        example = model.bundle.path / "example.json"
        asked = f"{url}/v1/{path}?model={quote(model.name)}"
        line = shlex.join(["curl", "-s", asked, "-H", "content-type: application/json", "-d", f"@{example}"])
        lines.append(f'  {line} -H "authorization: Bearer $KEY"' if service.keys else f"  {line}")
    return lines
