"""The servers that are compared: how each is started, which forms it reads, and that nothing of it stays behind."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.bodies import BENTO_BYTES, BENTO_ROWS, LISTS, NATIVE, RAW, V2_BINARY, V2_JSON, Form, Request
from benchmarks.peers.environments import environment
from benchmarks.peers.models import Graph

HERE = Path(__file__).resolve().parent
START_S = 180.0
STOP_S = 10.0
IN_A_ROW = 20
"""So many answers one after another, each over a new connection, say that all processes of a server are ready."""
MARK = "WANDER_PEERS_RUN"
"""Environment variable by which all processes of a server are known, wherever they have gone."""


class ServerFailed(Exception):
    """It ended, was not ready in time, or answers wrongly."""


@dataclass(frozen=True)
class Server:
    """Attributes:

    forms: kind ("binary", "json", "v1 json") -> what the body is.
    environment: name of its requirements and of its script; None for our own.
    options: of `wander serve`, for our own.
    large_only: whether it says nothing new of the small model.
    says: its settings, for the report.
    """

    name: str
    forms: Mapping[str, Form]
    says: str
    environment: str | None = None
    options: tuple[str, ...] = ()
    large_only: bool = False

    @property
    def ours(self) -> bool:
        return self.environment is None

    def command(self, graph: Graph, kind: str, port: int, threads: int, environments: Path) -> list[str]:
        """Raises EnvironmentFailed."""
        if self.environment is None:
            command = [sys.executable, "-m", "wander", "serve", str(graph.folder), "--port", str(port)]
            return [*command, "--log-level", "warning", *self.options]
        python = environment(self.environment, environments)
        command = [str(python), str(HERE / f"{self.environment}_server.py"), "--graph", str(graph.path)]
        return [*command, "--name", graph.name, "--form", kind, "--port", str(port), "--threads", str(threads)]


OURS = "wander"
SPREAD = f"{OURS} --instances 2 --threads 1"
OUR_FORMS = {"binary": V2_BINARY, "json": V2_JSON, "v1 json": NATIVE}
FASTAPI = "FastAPI"
GENERAL = ("LitServe", "BentoML", "MLServer", "Ray Serve", "Triton (pytriton)")
"""The servers for any model, of which the best is what we are compared with."""

SERVERS = (
    Server(OURS, OUR_FORMS, "one process, default settings"),
    Server(f"{OURS} --workers 2", OUR_FORMS, "two processes", options=("--workers", "2")),
    Server(
        SPREAD,
        OUR_FORMS,
        "one process, an engine of one thread for every core, as small models have by themselves",
        options=("--instances", "2", "--threads", "1"),
        large_only=True,
    ),
    Server(
        FASTAPI,
        {"binary": RAW, "json": LISTS},
        "0.165.0, uvicorn with uvloop and httptools, orjson; a batcher of a few lines, engine of 2 threads",
        "fastapi",
    ),
    Server(
        GENERAL[0],
        {"binary": RAW, "json": LISTS},
        "0.2.19; fast_queue, max_batch_size 32, batch_timeout 1 ms, one worker of 2 threads",
        "litserve",
    ),
    Server(
        GENERAL[1],
        {"binary": BENTO_BYTES, "json": BENTO_ROWS},
        "1.4.39; batchable, max_batch_size 32, one worker of 2 threads",
        "bentoml",
    ),
    Server(
        GENERAL[2],
        {"json": V2_JSON},
        "1.7.1; max_batch_size 32, max_batch_time 1 ms, one parallel worker of 2 threads; no binary form over HTTP",
        "mlserver",
    ),
    Server(
        GENERAL[3],
        {"binary": RAW, "json": LISTS},
        "2.60.0; @serve.batch of 32, wait 1 ms, throughput-optimised, one replica of 2 threads",
        "ray",
    ),
    Server(
        GENERAL[4],
        {"binary": V2_BINARY, "json": V2_JSON},
        "0.7.0; dynamic batcher of 32 without delay, one engine of 2 threads",
        "pytriton",
    ),
)
BY_NAME = {server.name: server for server in SERVERS}


@contextmanager
def running(command: list[str], port: int, probe: Request, log: Path) -> Iterator[str]:
    """A server that answers 200 to `probe`, as its mark; all of its processes are gone afterwards.

    Raises ServerFailed with the last line that it wrote.
    """
    mark = uuid.uuid4().hex
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True, env=_env(mark)
        )
    try:
        until, status, row = time.monotonic() + START_S, 0, 0
        while row < IN_A_ROW:
            if process.poll() is not None:
                raise ServerFailed(f"ended with exit code {process.returncode}: {_reason(log)}")
            if time.monotonic() > until:
                raise ServerFailed(f"not ready within {START_S:.0f} s (last status {status}): {_reason(log)}")
            with suppress(OSError, http.client.HTTPException):
                status, _, _ = post(port, probe)
            row = row + 1 if status == 200 else 0
            time.sleep(0.02 if row else 0.2)
        yield mark
    finally:
        _end(process, mark)


def post(port: int, request: Request, timeout: float = 60.0) -> tuple[int, dict[str, str], bytes]:
    """Status, headers in lower case, and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST", request.path, request.body, request.headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def free_port() -> int:
    """The first of three that are free: some servers take more than one."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port: int = first.getsockname()[1]
            if port > 60_000:
                continue
            addresses = (("127.0.0.1", port + 1), ("127.0.0.1", port + 2))
            with suppress(OSError), socket.create_server(addresses[0]), socket.create_server(addresses[1]):
                return port


def _env(mark: str) -> dict[str, str]:
    """Ours, without what would set our options, or threads behind a server's back."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDER_", "OMP_", "PYTHON"))}
    return {**kept, MARK: mark}


def _end(process: subprocess.Popen[bytes], mark: str) -> None:
    """Ends a server as an operator would, and then what is left of it, in whatever session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    until = time.monotonic() + STOP_S
    while time.monotonic() < until and (process.poll() is None or marked(mark)):
        time.sleep(0.1)
    for _ in range(3):
        for pid in marked(mark):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    process.wait()


def marked(mark: str) -> list[int]:
    """Processes that inherited a mark."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return found


def _reason(log: Path) -> str:
    """The last line that names an error, else the last."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line]
    return (errors or lines or ["it wrote nothing"])[-1]
