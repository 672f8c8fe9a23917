"""How long `wander serve` takes from the start of its process to a ready server, and whether torch is in it.

    python -m benchmarks.startup models [--runs 5] [--out benchmarks/results/startup.json]

Every run is a new process on a free port. The clock starts before the process does and stops when `/readyz` answers
200, asked every few milliseconds as soon as the process says where it listens. One run before the counted ones fills
the file cache. A library of torch in the address space of a ready server (`/proc/PID/maps`) fails the run: exit 1.
"""

from __future__ import annotations

import http.client
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from benchmarks._timing import Spread
from benchmarks.results import circumstances, publish, table
from wander.console import progress

LISTENING = re.compile(r"http://127\.0\.0\.1:(\d+)")
FORBIDDEN = "libtorch"
POLL_S = 0.002
LIMIT_S = 120.0


class ServerFailed(Exception):
    """The server ended, was not ready in time, or holds what it must not."""


@dataclass(frozen=True)
class Running:
    """A server that is ready, and the seconds until it was."""

    process: subprocess.Popen[bytes]
    port: int
    seconds: float


@contextmanager
def server(models: Path, *options: str) -> Iterator[Running]:
    """`wander serve` on a free port, with `options` behind it. It is stopped at the end."""
    command = [sys.executable, "-m", "wander", "serve", str(models), "--port", "0", *options]
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "stderr"
        with log.open("wb") as stderr:
            started = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)
        try:
            while (port := ready(text(log))) is None:
                if process.poll() is not None:
                    *_, last = text(log).splitlines() or [f"exit code {process.returncode}"]
                    raise ServerFailed(f"the server ended: {last}")
                if time.perf_counter() > started + LIMIT_S:
                    raise ServerFailed(f"the server was not ready within {LIMIT_S:.0f} s")
                time.sleep(POLL_S)
            yield Running(process, port, time.perf_counter() - started)
        finally:
            process.terminate()
            process.wait()


def text(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")


def ready(said: str) -> int | None:
    """The port on which the server, whose stderr this is, says that it listens, once it answers 200 there."""
    address = LISTENING.search(said)
    if address is None:
        return None
    port = int(address[1])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return port if connection.getresponse().status == 200 else None
    except OSError:
        return None
    finally:
        connection.close()


def mapped(pid: int, library: str) -> list[str]:
    """File names with `library` in them that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines()
    paths = {line.split(maxsplit=5)[5] for line in lines if len(line.split(maxsplit=5)) == 6}
    return sorted(Path(path).name for path in paths if library in Path(path).name)


def start(models: Path) -> float:
    """Seconds until one new server is ready. Raises ServerFailed if it is not, or has torch in it."""
    with server(models) as running:
        if found := mapped(running.process.pid, FORBIDDEN):
            raise ServerFailed(f"the server has torch in it: {', '.join(found)}")
    return running.seconds


def main(
    models: Annotated[Path, typer.Argument(help="Folder with the bundles to serve.", exists=True, file_okay=False)],
    runs: Annotated[int, typer.Option(min=1, help="Counted runs.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="One run: does it work?")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the report here, as .json and as .md.")] = None,
) -> None:
    """Seconds from process start to ready, in new processes."""
    about = circumstances("benchmarks.startup", ("onnxruntime", "fastapi", "uvicorn"))
    seconds: list[float] = []
    names = sorted(path.name for path in models.iterdir() if path.is_dir() and not path.name.startswith("."))
    try:
        with progress() as display:
            for turn in display.track(range(1 if quick else runs + 1), description="start"):
                taken = start(models)
                if turn > 0 or quick:
                    seconds.append(taken)
    except ServerFailed as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    spread = Spread.of(seconds)
    body = [
        f"Seconds from the start of `wander serve` to `/readyz` 200, {len(names)} models ({', '.join(names)}); every "
        f"run a new process, file cache warm. No library named {FORBIDDEN}* is mapped into a ready server.",
        table(["run", "seconds"], [[number, f"{s:.3f}"] for number, s in enumerate(seconds, 1)]),
        f"Median {spread.median:.3f} s, quartiles {spread.lower:.3f} to {spread.upper:.3f} s.",
    ]
    data = {"models": names, "seconds": seconds, "spread": asdict(spread), "torch_mapped": []}
    publish("Start-up", about, body, data, out)


if __name__ == "__main__":
    typer.run(main)
