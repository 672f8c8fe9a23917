"""More than the server can do: what it still does, and how fast it says no.

    python -m benchmarks.overload BUNDLE [--graph NAME] [--factor 4] [--out FILE]

First the peak, with a closed loop of `hey` (Debian's package); then requests at `--factor` times that rate, each with
its own place in time. Goodput is the rate of right answers; every other answer should be a 429, and a quick one.
Bodies are binary (KServe v2), one row each. Load generator and server share the cores of the machine.
"""

from __future__ import annotations

import csv
import io
import math
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated

import httpx
import numpy as np
import typer

from benchmarks.results import circumstances, publish, table
from serving.client._tensors import encode
from wander.bundle import Bundle

QUEUE_ROWS = 64
"""So that a row that waits is answered within a fraction of a second."""
CONNECTIONS = 512
"""So many that those which wait for an answer leave enough to ask."""


def body(bundle: Bundle, graph: str, folder: Path) -> tuple[Path, list[str]]:
    """One row of the samples as a file, and its headers."""
    row = {name: value[:1] for name, value in bundle.samples(graph).inputs.items()}
    content, length = encode(row, binary=True)
    path = folder / "body"
    path.write_bytes(content)
    return path, [f"Inference-Header-Content-Length: {length}"]


Answers = list[tuple[int, float]]
"""(status, seconds) of every request."""


def hey(url: str, file: Path, headers: list[str], seconds: float, connections: int, rate: float | None) -> Answers:
    """A closed loop; with a rate, no more requests a second than that."""
    command = ["hey", "-o", "csv", "-z", f"{seconds}s", "-c", f"{connections}", "-m", "POST", "-D", str(file)]
    command += [part for header in headers for part in ("-H", header)]
    if rate is not None:
        command += ["-q", f"{rate / connections:.3f}"]
    done = subprocess.run([*command, url], capture_output=True, text=True, check=True)
    rows = csv.DictReader(io.StringIO(done.stdout))
    return [(int(row["status-code"]), float(row["response-time"])) for row in rows]


def percentile(values: list[float], share: float) -> float:
    return float(np.quantile(values, share)) if values else math.nan


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
            file, headers = body(opened, asked_for, Path(scratch))
            asked = f"{url}/v2/models/{name}/infer"
            hey(asked, file, headers, 3, 32, None)  # the batch sizes are found meanwhile
            closed = hey(asked, file, headers, seconds, 32, None)
            peak = sum(status == 200 for status, _ in closed) / seconds
            pressed = hey(asked, file, headers, seconds, CONNECTIONS, factor * peak)
        alive = httpx.get(f"{url}/readyz").status_code == 200
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate()
    good = [took for status, took in pressed if status == 200]
    refused = [took for status, took in pressed if status == 429]
    facts = {
        "peak, requests/s": round(peak, 1),
        "asked for, requests/s": round(len(pressed) / seconds, 1),
        "goodput, requests/s": round(len(good) / seconds, 1),
        "goodput / peak": round(len(good) / seconds / peak, 3),
        "answered, p50 / p99, ms": f"{percentile(good, 0.5) * 1e3:.0f} / {percentile(good, 0.99) * 1e3:.0f}",
        "refused (429)": len(refused),
        "refused, p50 / p99, ms": f"{percentile(refused, 0.5) * 1e3:.1f} / {percentile(refused, 0.99) * 1e3:.1f}",
        "refused within 50 ms": f"{np.mean([took <= 0.05 for took in refused]):.1%}" if refused else "-",
        "other statuses": dict(Counter(status for status, _ in pressed if status not in (200, 429))) or "none",
        "ready afterwards": alive,
    }
    publish("Overload", about, [table(["what", ""], list(facts.items()))], {"facts": facts}, out)


if __name__ == "__main__":
    typer.run(main)
