"""Both clients behind one face, and servers for them to ask."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from serving.client import AsyncClient, Client
from serving.settings import Settings
from tests.serving.building import PATIENCE, Linear, Running, running
from tests.serving.building import publish as publish_linear
from tests.serving.index.colours import picture, publish, registered


class Blocking:
    """An `AsyncClient` in a loop of its own, each of whose methods is run to its end."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.runner = asyncio.Runner()
        self.client = AsyncClient(*arguments, **options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def ask(*arguments: Any, **options: Any) -> Any:
            return await getattr(self.client, name)(*arguments, **options)

        return lambda *arguments, **options: self.runner.run(ask(*arguments, **options))

    def close(self) -> None:
        self.runner.run(self.client.aclose())
        self.runner.close()


Connect = Callable[..., Client]


@pytest.fixture(params=[Client, Blocking], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes a client of the one kind or the other; it is closed in the end."""
    with ExitStack() as stack:

        def make(url: str, **options: Any) -> Any:
            client = request.param(url, trust_env=False, **options)
            stack.callback(client.close)
            return client

        yield make


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of sequences, and of images and words, with indexes."""
    with registered():
        models = tmp_path_factory.mktemp("models")
        publish_linear(models / "mosi", Linear("sentiment"))
        publish(models / "colours")
        indexes = tmp_path_factory.mktemp("indexes")
        with running(Settings(models=models, indexes=indexes)) as started:
            yield started


@pytest.fixture
def client(server: Running, connect: Connect) -> Client:
    return connect(str(server.client.base_url))


@dataclass(frozen=True)
class Reply:
    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    hangs_up: bool = False


@dataclass(frozen=True)
class Request:
    at: float
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Scripted:
    """A real HTTP server that gives the replies it was told, the last one for ever, and keeps what it was asked."""

    def __init__(self) -> None:
        self.replies: list[Reply] = [Reply()]
        self.requests: list[Request] = []
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65_537)
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                scripted.requests.append(Request(time.monotonic(), self.command, self.path, headers, body))
                reply = scripted.replies[0] if len(scripted.replies) == 1 else scripted.replies.pop(0)
                if reply.hangs_up:
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                for name, value in {"content-length": str(len(reply.body)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.body)

            def log_message(self, *_: Any) -> None:
                return

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join(PATIENCE)
        self.http.server_close()


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    server = Scripted()
    yield server
    server.close()


@pytest.fixture
def red(tmp_path: Path) -> Path:
    path = tmp_path / "a red one.png"
    path.write_bytes(picture(250, 10, 10))
    return path
