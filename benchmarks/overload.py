"""More than the server can do: what it still does, and how fast it says no.

    python -m benchmarks.overload BUNDLE [--graph NAME] [--factor 4] [--out FILE]

First the peak, with a closed loop of `wander bench`'s generator; then an open loop at `--factor` times that rate.
Goodput is the rate of right answers; every other answer should be a 429, and a quick one. The latency of a request
counts from the moment at which it was due. Bodies are binary (KServe v2), one row each. Load generator and server share
the cores of the machine.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import httpx
import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.results import circumstances, publish, table
from serving.bench.driver import Driver
from serving.bench.loads import Load, Window
from serving.bench.targets import Wanted, resolve
from serving.client._tensors import encode
from serving.wire import JSON_LENGTH_HEADER
from wander.bundle import Bundle

QUEUE_ROWS = 64
"""So that a row that waits is answered within a fraction of a second."""
WORKING, CONNECTIONS = 32, 512
"""Of the closed loop; and so many that those which wait for an answer leave enough to ask."""


def wanted(bundle: Bundle, graph: str, folder: Path) -> Wanted:
    """One row of the samples as the body."""
    row = {name: value[:1] for name, value in bundle.samples(graph).inputs.items()}
    content, length = encode(row, binary=True)
    path = folder / "body"
    path.write_bytes(content)
    headers = {"content-type": "application/octet-stream", JSON_LENGTH_HEADER: str(length)}
    return Wanted(body=path, headers=headers, connections=CONNECTIONS)


def loaded(driver: Driver, load: Load, seconds: float) -> Window:
    """What was answered in so many seconds, after as many in which queues fill and batch sizes are found."""
    driver.start(load, seconds, seed=0)
    driver.window()
    window = driver.window()
    driver.stop()
    return window


def two(times: NDArray[np.float64]) -> str:
    """Median and 99th percentile."""
    return f"{np.percentile(times, 50):.1f} / {np.percentile(times, 99):.1f}" if len(times) else "-"


def main(
    bundle: Annotated[Path, typer.Argument(help="A model's folder; a row should take some milliseconds.")],
    graph: Annotated[str, typer.Option(help="Which one is asked, by default the first.")] = "",
    factor: Annotated[float, typer.Option(min=1, help="Times the peak.")] = 4,
    seconds: Annotated[float, typer.Option(min=1, help="Length of each measurement.")] = 15,
    out: Annotated[Path | None, typer.Option(help="Also write FILE.md and FILE.json.")] = None,
) -> None:
    """Goodput and refusals at several times the capacity."""
    about = circumstances("benchmarks.overload", ("onnxruntime", "fastapi", "uvicorn"))
    opened = Bundle.open(bundle)
    asked_for = graph or next(iter(opened.manifest.graphs))
    names = {own: name for name, own in opened.graph_names().items()}
    if asked_for not in names:
        raise typer.BadParameter(f"there is no graph {graph}; there are: {', '.join(names)}", param_hint="--graph")
    name = names[asked_for]
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "wander", "serve", str(opened.path.parents[1]), "--port", "0"),
            *("--max-queue-rows", str(QUEUE_ROWS), "--log-level", "error"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        url = next(line for line in server.stderr if line.startswith("serving on")).split()[2]
        with tempfile.TemporaryDirectory() as scratch:
            (case,) = resolve([f"{url}/v2/models/{name}/infer"], wanted(opened, asked_for, Path(scratch)))
        with Driver(case.module, case.config) as driver:
            peak = loaded(driver, Load("closed", WORKING), seconds).throughput
            pressed = loaded(driver, Load("open", factor * peak), seconds)
        alive = httpx.get(f"{url}/readyz").status_code == 200
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate()
    good, refused = (times / 1e6 for times in (pressed.latencies, pressed.failures))
    asked = sum(pressed.statuses.values())
    others = {status: count for status, count in pressed.statuses.items() if status not in ("200", "429")}
    facts = {
        "body, bytes": len(case.config["request"]) * 3 // 4,
        "peak, requests/s": f"{peak:,.1f}",
        "asked for, requests/s": f"{asked / pressed.seconds:,.1f}",
        "goodput, requests/s": f"{pressed.throughput:,.1f}",
        "goodput / peak": f"{pressed.throughput / peak:.3f}",
        "answered, p50 / p99, ms": two(good),
        "refused (429)": pressed.statuses["429"],
        "refused, p50 / p99, ms": two(refused),
        "refused within 50 ms": f"{np.mean(refused <= 50):.1%}" if len(refused) else "-",
        "other statuses": others or "none",
        "share of a core that the generator took": f"{pressed.cpu_s / pressed.seconds:.0%}",
        "ready afterwards": alive,
    }
    publish("Overload", about, [table(["what", ""], list(facts.items()))], {"facts": facts}, out)


if __name__ == "__main__":
    typer.run(main)
