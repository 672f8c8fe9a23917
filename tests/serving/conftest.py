"""Tiny bundles, and servers for them."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from serving.settings import Settings
from tests.serving.building import PATIENCE, Linear, Running, publish, running
from wander.bundle import Bundle

WANDER = Path(sys.executable).with_name("wander")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one model for sentiment and one for emotion; the latter may go without audio."""
    folder = tmp_path_factory.mktemp("a models") / "models"
    publish(folder / "mosi", Linear("sentiment"))
    publish(
        folder / "iemocap",
        Linear("emotion"),
        preprocessing={"missing": {"audio": "padding"}, "padding": {"audio": (0.5, -1.0, 2.0)}},
    )
    return folder


@pytest.fixture
def bundle(models: Path, tmp_path: Path) -> Bundle:
    """A copy of the sentiment bundle, alone in its folder, that a test may spoil."""
    return Bundle.open(Path(shutil.copytree(models / "mosi", tmp_path / "own" / "mosi")))


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Running]:
    """A server with ONNX Runtime."""
    with running(Settings(models=models)) as started:
        yield started


@pytest.fixture
def fake(models: Path) -> Iterator[Running]:
    """A server with the fake engine, whose queues hold four rows."""
    with running(Settings(models=models, engine="fake", instances=1, max_queue_rows=4)) as started:
        yield started
        for name in ("mosi", "iemocap"):
            started.session(name).gate.set()


@dataclass(frozen=True)
class Command:
    """A running `wander serve`."""

    process: subprocess.Popen[str]
    url: str
    announced: list[str]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Sends a signal; returns the exit status and what else was written to stderr."""
        self.process.send_signal(number)
        _, written = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, written


@pytest.fixture
def command(models: Path) -> Iterator[Callable[..., Command]]:
    """Starts `wander serve` on a free port, with the options given, and waits until it says that it serves."""
    with ExitStack() as stack:

        def start(*options: str, folder: Path = models, program: Sequence[str | Path] = (WANDER,)) -> Command:
            process = subprocess.Popen(
                [*program, "serve", folder, "--port", "0", "--log-level", "warning", *options],
                stderr=subprocess.PIPE,
                text=True,
            )
            watchdog = threading.Timer(PATIENCE, process.kill)
            watchdog.start()
            stack.callback(process.communicate)
            stack.callback(process.kill)
            stack.callback(watchdog.cancel)
            assert process.stderr is not None
            lines: list[str] = []
            for line in process.stderr:
                lines.append(line.rstrip("\n"))
                if sum("curl" in line for line in lines) == len(list(folder.iterdir())):
                    break
            watchdog.cancel()
            first = next((line for line in lines if line.startswith("serving on ")), None)
            assert first is not None, lines
            return Command(process, first.split()[2], lines)

        yield start


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=PATIENCE, trust_env=False) as client:
        yield client
