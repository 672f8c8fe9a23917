"""Whether `wander bench` can be believed: beside wrk on one server, and before a server that stands still.

    python -m benchmarks.bench_check MODELS [--quick] [--out benchmarks/results/bench_check]

First wrk and `wander bench` take turns on the same `wander serve`, with the same body and as many connections. Then a
server that answers at once, but stands still for 20 ms every second, is measured: with an open loop, whose latencies
count from the moment at which a request was due, and with what is blind to it, one connection that waits. Generators
and servers share the cores of the machine. Needs wrk.
"""

from __future__ import annotations

import base64
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.peers import load as wrk
from benchmarks.peers.bodies import Request
from benchmarks.results import circumstances, publish, table
from serving.bench.driver import HTTP
from serving.bench.loads import Load
from serving.bench.measuring import Bench, Plan
from serving.bench.noise import Rule
from serving.bench.results import point_json
from serving.bench.targets import Case, Wanted, resolve
from wander.bundle import Bundle

THROUGHPUT, P99 = 0.05, 0.10
"""How far apart the two generators may be."""
STALL_MS, EVERY_S, RATE = 20.0, 1.0, 1000.0


@contextmanager
def speaking(*command: str) -> Iterator[str]:
    """A process of this project, as the first line that says where it listens."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline()
    finally:
        process.terminate()
        process.communicate()


def request_of(case: Case) -> Request:
    """What the case sends, taken apart for wrk."""
    head, _, body = base64.b64decode(case.config["request"]).partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return Request(first.split()[1], {n: v for n, v in headers.items() if n not in ("host", "content-length")}, body)


def fixed(windows: int) -> Plan:
    """So many windows, whatever they say: as long as wrk."""
    return Plan(Rule(0, 0, windows, windows), warmup_s=1.0)


def beside_wrk(case: Case, connections: Sequence[int], turns: int, seconds: int) -> dict[int, list[dict[str, float]]]:
    """Connections -> what both saw, a turn each. Who begins changes from turn to turn."""
    found: dict[int, list[dict[str, float]]] = {number: [] for number in connections}
    with tempfile.TemporaryDirectory() as folder, Bench([case], fixed(seconds)) as bench:
        script = wrk.prepare([request_of(case)], Path(folder))
        port = case.config["port"]
        wrk.run(script, port, max(connections), 2)  # the batch sizes are found meanwhile
        for turn in range(turns):
            for number in connections:
                seen: dict[str, float] = {}

                def by_wrk(number: int = number, seen: dict[str, float] = seen) -> None:
                    wrk.run(script, port, number, 1)
                    one, _ = wrk.run(script, port, number, seconds)
                    seen.update(wrk=one.requests_per_s, wrk_p99=one.p99_ms, wrk_p50=one.p50_ms, wrk_failed=one.failed)

                def by_bench(number: int = number, seen: dict[str, float] = seen) -> None:
                    (point,) = bench.measure(Load("closed", number))
                    said = point_json(point, case, bench.plan.rule)
                    seen.update(bench=said["throughput"], bench_p99=said["latency_ms"]["p99"])
                    seen.update(bench_p50=said["latency_ms"]["p50"], corrected_p99=said["corrected_ms"]["p99"])
                    seen.update(busy=said["generator"]["busy"], bench_failed=sum(said["errors"].values()))
                    seen.update(batch_rows=said["server"]["batch_rows"], cores=said["server"]["cpu_cores"])

                for measure in (by_wrk, by_bench) if turn % 2 == 0 else (by_bench, by_wrk):
                    measure()
                found[number].append(seen)
    return found


def ratios(turns: Sequence[dict[str, float]], over: str, under: str) -> tuple[float, float, float]:
    """Median and quartiles of the ratios within a turn."""
    low, middle, high = np.quantile([turn[over] / turn[under] for turn in turns], (0.25, 0.5, 0.75))
    return float(middle), float(low), float(high)


def before_a_stall(stall_ms: float, seconds: int) -> dict[str, dict[str, Any]]:
    """What an open loop sees, and what a connection that waits sees, corrected and as it is."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"{}")
        file.flush()
        with speaking("benchmarks._stall_server", "--stall-ms", str(stall_ms), "--every-s", str(EVERY_S)) as port:
            (case,) = resolve([f"http://127.0.0.1:{int(port)}/any"], Wanted(body=Path(file.name)))
            assert case.module == HTTP
            with Bench([case], fixed(seconds)) as bench:
                (opened,) = bench.measure(Load("open", RATE))
                (waiting,) = bench.measure(Load("closed", 1))
            rule = bench.plan.rule
    seen, blind = point_json(opened, case, rule), point_json(waiting, case, rule)
    return {
        f"open loop, {RATE:g}/s": {**seen["latency_ms"], "requests": seen["requests"]},
        "closed loop, 1 connection: blind": {**blind["latency_ms"], "requests": blind["requests"]},
        "the same, corrected": {**blind["corrected_ms"], "requests": blind["requests"]},
    }


def main(
    models: Annotated[Path, typer.Argument(help="Folder of models; the first that is one graph is asked.")],
    connections: Annotated[str, typer.Option(help="Numbers of connections, separated by commas.")] = "8,32",
    turns: Annotated[int, typer.Option(min=1, help="Turns of each generator.")] = 6,
    seconds: Annotated[int, typer.Option(min=1, help="Length of a turn.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="One turn of one second: does it work?")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write FILE.md and FILE.json.")] = None,
) -> None:
    """`wander bench` beside wrk, and before a planted stall. Exits 1 if it is too far off, unless quick."""
    about = circumstances("benchmarks.bench_check", ("onnxruntime", "hdrhistogram", "uvicorn"))
    turns, seconds = (1, 1) if quick else (turns, seconds)
    numbers = [int(number) for number in connections.split(",")]
    folders = sorted(path for path in models.iterdir() if path.is_dir())
    name = next(path.name for path in folders if path.name in Bundle.open(path).graph_names())
    with speaking("wander", "serve", str(models), "--port", "0", "--log-level", "warning") as said:
        (case,) = resolve([f"{said.split()[2]}/v2/models/{name}"], Wanted())
        found = beside_wrk(case, numbers, turns, seconds)
    rows, held = [], []
    for number, seen in found.items():
        for what, (over, under), limit in (
            ("requests/s", ("bench", "wrk"), THROUGHPUT),
            ("p50", ("bench_p50", "wrk_p50"), None),
            ("p99", ("bench_p99", "wrk_p99"), P99),
            ("p99, corrected as wrk corrects", ("corrected_p99", "wrk_p99"), None),
        ):
            middle, low, high = ratios(seen, over, under)
            both = [f"{np.median([turn[name] for turn in seen]):,.4g}" for name in (over, under)]
            met = "-" if limit is None else "yes" if abs(middle - 1) <= limit else "no"
            held.append(met != "no")
            wanted = "-" if limit is None else f"within {limit:.0%}"
            rows.append(
                [f"{number} connections, {what}", *both, f"{middle:.3f} ({low:.3f} to {high:.3f})", wanted, met]
            )
    failed = sum(turn[name] for seen in found.values() for turn in seen for name in ("wrk_failed", "bench_failed"))
    busy = max(turn["busy"] for seen in found.values() for turn in seen)
    stalls = {stall: before_a_stall(stall, 2 if quick else 10) for stall in (0.0, STALL_MS)}
    columns = ("p50", "p90", "p99", "p99.9", "max")
    stall_rows = [
        [f"{stall:g} ms, {how}", f"{seen['requests']:,}", *(f"{seen[column]:.3g}" for column in columns)]
        for stall, measured in stalls.items()
        for how, seen in measured.items()
    ]
    opened, blind, _ = (seen["p99.9"] for seen in stalls[STALL_MS].values())
    seen_it, hidden = opened >= STALL_MS / 2, blind < STALL_MS / 2
    body = [
        "## Beside wrk",
        f"`wander serve`, one KServe v2 binary body ({case.says['request']}), medians of {turns} turns of {seconds} s "
        "each; ratios are medians within a turn, with quartiles. Latencies in ms.",
        table(["", "wander bench", "wrk", "ratio", "wanted", "met"], rows),
        f"Failed requests: {failed:g}. The generator was busy at most {busy:.0%} of a core.",
        f"## A stall of {STALL_MS:g} ms every {EVERY_S:g} s",
        "Latencies in ms.",
        table(["stall, loop", "requests", *columns], stall_rows),
        f"The open loop's p99.9 shows the stall: {'yes' if seen_it else 'no'}. "
        f"That of a connection that waits hides it: {'yes' if hidden else 'no'}.",
    ]
    publish("wander bench, checked", about, body, {"beside_wrk": found, "stalls": stalls}, out)
    if not quick and not (all(held) and seen_it and hidden):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
