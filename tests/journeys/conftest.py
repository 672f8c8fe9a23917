"""A real server in a process of its own, as a user starts it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

Start = Callable[..., httpx.Client]


@pytest.fixture(scope="session")
def serve() -> Iterator[Start]:
    """Starts `wander serve MODELS` on a free port; gives a client once it says that it serves."""
    processes: list[subprocess.Popen[str]] = []
    clients: list[httpx.Client] = []

    def start(models: Path, *options: str) -> httpx.Client:
        command = [sys.executable, "-m", "wander", "serve", str(models), "--port", "0", *options]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "NO_COLOR": "1"})
        processes.append(process)
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"serving on (http://\S+)", line):
                client = httpx.Client(base_url=found[1], timeout=60, headers={"x-pid": str(process.pid)})
                clients.append(client)
                return client
        raise AssertionError("the server did not start:\n" + "".join(lines))

    yield start
    for client in clients:
        client.close()
    for process in processes:
        process.terminate()
        process.communicate(timeout=30)
