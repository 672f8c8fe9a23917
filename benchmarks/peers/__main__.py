"""The same graphs behind this server and behind others, in one run; tables, a plot, the raw output of wrk.

    python -m benchmarks.peers [--models small,large] [--servers NAMES] [--quick] [--out benchmarks/results/peers]

Needs wrk, and for pytriton the distribution's own Python 3.11 (Debian: `apt install wrk python3.11-venv`). Every peer
gets a virtual environment under `--envs`, made at the first run. Servers are started one at a time and take turns; each
is checked against ONNX Runtime in this process before it is timed, and one that fails is reported with its reason. Load
generator and server share the cores of the machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.peers import load, report
from benchmarks.peers.environments import EnvironmentFailed, environment
from benchmarks.peers.measuring import Plan, cases, measure
from benchmarks.peers.models import NAMES, build
from benchmarks.peers.servers import SERVERS
from benchmarks.results import circumstances, publish

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "wander-peers"
LARGE_FACTOR = 2
"""Measurements of the large model are so much longer: it answers few requests a second."""


def main(
    models: Annotated[str, typer.Option(help="Which models, separated by commas.")] = ",".join(NAMES),
    servers: Annotated[str, typer.Option(help="Parts of the names of servers, separated by commas; none: all.")] = "",
    concurrency: Annotated[str, typer.Option(help="Numbers of connections, separated by commas.")] = "1,8,32,128",
    turns: Annotated[int, typer.Option(min=1, help="How often every server is started and measured.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="Length of one measurement; twice that for large.")] = 4,
    quick: Annotated[bool, typer.Option("--quick", help="One turn of one second: does it work?")] = False,
    envs: Annotated[Path | None, typer.Option(help="Folder of the peers' environments; default: a cache.")] = None,
    work: Annotated[Path | None, typer.Option(help="Folder of the exported models; default: beside them.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the report here: .md, .json, .png and .wrk.txt.")] = None,
) -> None:
    """Requests/s and latency of this server and of others, with the same graphs and the same load."""
    about = circumstances("benchmarks.peers", ("onnxruntime", "fastapi", "uvicorn"))
    about["load"] = "wrk, 1 thread, on the same cores"
    folder = envs or CACHE
    asked = [part.strip().lower() for part in servers.split(",") if part.strip()]
    chosen = [server for server in SERVERS if not asked or any(part in server.name.lower() for part in asked)]
    numbers = tuple(int(number) for number in concurrency.split(","))
    turns, seconds = (1, 1.0) if quick else (turns, seconds)
    raw: list[str] = []

    def keep(turn: str, what: str, said: str) -> None:
        print(f"{model}, {turn}: {what}{'  ' + said.strip() if said.startswith('failed') else ''}", file=sys.stderr)
        raw.append(f"== {model}, {turn}: {what}\n{said}")

    body: list[str] = []
    data: dict[str, Any] = {"turns": turns, "seconds": seconds, "models": {}}
    try:
        load.generator()
        for model in models.split(","):
            graph = build(model, (work or folder) / "models")
            large = model == "large"
            own = cases(chosen, large)
            plan = Plan(turns, seconds * (LARGE_FACTOR if large else 1), seconds / 2, numbers, folder)
            top = measure(graph, own, plan, keep)
            goals = (report.goals_large if large else report.goals_small)(own, top)
            arrangement, batch = top.best
            body += [
                f"## {model} model",
                f"Requests/s (p50 / p99 in ms), medians of {turns} turns of {plan.seconds:g} s.",
                report.load_table(own, numbers),
                report.goal_table(goals),
                report.ceiling_table(top),
                f"The ceiling is {arrangement}, batch {batch}. One item alone takes "
                + ", ".join(f"{sorted(v)[len(v) // 2]:.3g} ms with {t} threads" for t, v in top.alone_ms.items())
                + ".",
                report.notes(own),
            ]
            data["models"][model] = {
                "ceiling": top.to_json(),
                "goals": [goal.to_json() for goal in goals],
                "cases": [case.to_json() for case in own],
            }
    except load.LoadFailed as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    publish("This server and others", about, body, data, out)
    if out is not None:
        out.with_suffix(".wrk.txt").write_text("\n".join(raw), encoding="utf-8")
        _plot(out, folder)


def _plot(out: Path, envs: Path) -> None:
    try:
        python = environment("plot", envs)
    except EnvironmentFailed as error:
        typer.echo(f"error: no plot: {error}", err=True)
        raise typer.Exit(1) from None
    script = Path(__file__).with_name("plot.py")
    subprocess.run([python, script, out.with_suffix(".json"), out.with_suffix(".png")], check=True)


if __name__ == "__main__":
    typer.run(main)
