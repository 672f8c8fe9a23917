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
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.peers import load, report
from benchmarks.peers.environments import EnvironmentFailed, environment
from benchmarks.peers.measuring import Case, Ceiling, Plan, cases, measure
from benchmarks.peers.models import NAMES, build
from benchmarks.peers.servers import SERVERS, Server
from benchmarks.results import circumstances, publish
from wander.console import progress, stderr

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
    plot: Annotated[bool, typer.Option(help="Draw FILE.png, with matplotlib in an environment of its own.")] = True,
    envs: Annotated[Path | None, typer.Option(help="Folder of the peers' environments; default: a cache.")] = None,
    work: Annotated[Path | None, typer.Option(help="Folder of the exported models; default: beside them.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write FILE.md, FILE.json, FILE.png and FILE.wrk.txt.")] = None,
) -> None:
    """Requests/s and latency of this server and of others, with the same graphs and the same load."""
    about = circumstances("benchmarks.peers", ("onnxruntime", "fastapi", "uvicorn"))
    about["load"] = "wrk, 1 thread, on the same cores"
    folder = envs or CACHE
    chosen = choose(servers)
    numbers = tuple(int(number) for number in concurrency.split(","))
    turns, seconds = (1, 1.0) if quick else (turns, seconds)
    raw = out.with_suffix(".wrk.txt") if out else None
    if raw is not None:
        raw.write_text("", encoding="utf-8")

    def keep(turn: str, what: str, said: str) -> None:
        if raw is not None:
            with raw.open("a", encoding="utf-8") as file:
                print(f"== {model}, {turn}: {what}\n{said}", file=file)
        display.update(bar, description=f"{model}, {turn}: {what}", advance=1)
        if stderr.is_terminal and said.startswith("failed"):
            stderr.print(f"{what} {said.strip()}", markup=False)

    body: list[str] = []
    data: dict[str, Any] = {"turns": turns, "seconds": seconds, "models": {}}
    try:
        load.generator()
        with progress() as display:
            for model in models.split(","):
                large = model == "large"
                own = cases(chosen, large)
                bar = display.add_task(f"{model}: export", total=turns * len(own) * len(numbers))
                graph = build(model, work or folder / "models")
                length = seconds * (LARGE_FACTOR if large else 1)
                plan = Plan(turns, length, length / 2, numbers, folder)
                top = measure(graph, own, plan, keep)
                body += section(model, own, numbers, plan, top)
                data["models"][model] = {
                    "ceiling": top.to_json(),
                    "goals": [goal.to_json() for goal in report.goals(own, top, large)],
                    "cases": [case.to_json() for case in own],
                }
    except load.LoadFailed as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    publish("This server and others", about, body, data, out)
    if out is not None and plot:
        draw(out, folder)


def section(model: str, own: list[Case], numbers: tuple[int, ...], plan: Plan, top: Ceiling) -> list[str]:
    """What the report says of one model."""
    arrangement, batch = top.best
    alone = [f"{np.median(values):.3g} ms with {threads} threads" for threads, values in top.alone_ms.items()]
    return [
        f"## {model} model",
        f"Requests/s (p50 / p99 in ms), medians of {plan.turns} turns of {plan.seconds:g} s.",
        report.load_table(own, numbers),
        report.goal_table(report.goals(own, top, model == "large")),
        report.ceiling_table(top),
        f"The ceiling is {arrangement}, batch {batch}. One item alone takes {', '.join(alone)}.",
        report.notes(own),
    ]


def choose(servers: str) -> list[Server]:
    """Those of a name, or with it in theirs; all for none. Raises BadParameter for a name of none."""
    chosen: list[Server] = []
    for part in (part.strip().lower() for part in servers.split(",")):
        found = [server for server in SERVERS if server.name.lower() == part]
        found = found or [server for server in SERVERS if part in server.name.lower()]
        if not found:
            names = ", ".join(server.name for server in SERVERS)
            raise typer.BadParameter(f"{part!r} is no server; there are: {names}", param_hint="--servers")
        chosen += [server for server in found if server not in chosen]
    return chosen


def draw(out: Path, envs: Path) -> None:
    try:
        python = environment("plot", envs)
    except EnvironmentFailed as error:
        typer.echo(f"error: no plot: {error}", err=True)
        raise typer.Exit(1) from None
    script = Path(__file__).with_name("plot.py")
    subprocess.run([python, script, out.with_suffix(".json"), out.with_suffix(".png")], check=True)


if __name__ == "__main__":
    typer.run(main)
