"""What an adapter costs at inference: the adapted, folded graph against its frozen host alone, on ONNX Runtime.

    python -m benchmarks.adapter_cost [--models bert_vit,beit3_base] [--batches 1,8] [--cpu-time] [--out FILE]

Four graphs of every tower take turns in one run: adapted and folded; the plain host as it is exported without folds;
the plain host whose read-out alone is pruned; and the plain host with all folds that it has. Random weights, float32.
Texts of BEiT-3 have `--tokens` tokens. Wall time on all threads; with `--cpu-time` the processor time of one thread,
which other work on the machine disturbs far less.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.progress import Progress

from benchmarks._models import MODELS, SEED
from benchmarks._timing import Spread, alternate, ratio
from benchmarks.results import circumstances, publish, table
from export.trace import trace
from wander.backbones import Host
from wander.backbones.base import Fold
from wander.console import progress
from wander.engines import DEFAULT_ENGINE, EngineOptions, engines

PRUNING = ("read_out", "read_tokens")
VARIANTS: dict[str, tuple[bool, Callable[[Fold], bool]]] = {
    "adapted, folded": (True, lambda _: True),
    "plain": (False, lambda _: False),
    "plain, pruned": (False, lambda rewrite: rewrite.name in PRUNING),
    "plain, folded": (False, lambda _: True),
}
"""Whether it is adapted, and which of the folds are applied."""
ADAPTED, PLAIN, PRUNED, FOLDED = VARIANTS
RATIOS = {"to plain": PLAIN, "to plain, pruned": PRUNED, "to plain, folded": FOLDED}


def inputs(host: Host, tower: str, rows: int, tokens: int) -> dict[str, NDArray[Any]]:
    """Random inputs; texts of a free length get exactly `tokens` tokens, none of them padding."""
    arrays = host.random_inputs(tower, rows, np.random.default_rng(SEED))
    if tower == "text":
        ids = np.random.default_rng(SEED).integers(4, 64_000, (rows, tokens))
        arrays = {"text_ids": ids, "padding_mask": np.zeros_like(ids)}
    return arrays


def write_graphs(name: str, out: Path, display: Progress) -> tuple[Host, dict[str, dict[str, Path]]]:
    """The graphs of one model by tower and variant, and a host that tells their inputs but has no weights any more."""
    graphs: dict[str, dict[str, Path]] = {}
    for variant, (adapted, wanted) in VARIANTS.items():
        host = MODELS[name](adapted)
        for rewrite in host.folds():
            if wanted(rewrite):
                rewrite.apply()
        for tower in display.track(list(host.towers("logits")), description=f"{name}, {variant}"):
            path = out / f"{name}-{tower}-{variant.replace(', ', '-')}.onnx"
            trace(host, tower, "logits", path)
            graphs.setdefault(tower, {})[variant] = path
    return host.to("meta"), graphs


@dataclass(frozen=True)
class Plan:
    """What is measured: batch sizes, tokens of a text, turns of every variant, and by which clock."""

    batches: list[int]
    tokens: int
    rounds: int
    cpu_time: bool


def measure(
    name: str, host: Host, graphs: dict[str, dict[str, Path]], plan: Plan, on: Progress
) -> list[dict[str, Any]]:
    """Rows for every tower and batch of one model."""
    found = []
    engine, options = engines.get(DEFAULT_ENGINE), EngineOptions(threads=1 if plan.cpu_time else 0)
    clock = time.thread_time if plan.cpu_time else time.perf_counter
    for tower, paths in graphs.items():
        signature = host.towers("logits")[tower].signature
        sessions = {v: engine.open(path, signature, options) for v, path in paths.items()}
        for batch in plan.batches:
            arrays = inputs(host, tower, batch, plan.tokens)
            calls = {variant: partial(session.run, arrays) for variant, session in sessions.items()}
            turns = on.track(range(plan.rounds), description=f"{name}, {tower}, batch {batch}")
            seconds = alternate(calls, turns, clock=clock)
            found.append(
                {
                    "model": name,
                    "tower": tower,
                    "batch": batch,
                    "ms": {v: asdict(Spread.of([1000 * s for s in own])) for v, own in seconds.items()},
                    "ratios": {what: asdict(ratio(seconds[ADAPTED], seconds[v])) for what, v in RATIOS.items()},
                }
            )
        for session in sessions.values():
            session.close()
    return found


def main(
    models: Annotated[str, typer.Option(help="Names, separated by commas.")] = "bert_vit,beit3_base",
    batches: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1,8",
    tokens: Annotated[int, typer.Option(help="Length of BEiT-3's texts.")] = 16,
    rounds: Annotated[int, typer.Option(help="Turns of every variant.")] = 15,
    cpu_time: Annotated[bool, typer.Option("--cpu-time", help="Processor time of one thread.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write FILE.md and FILE.json.")] = None,
) -> None:
    """The adapted model against its frozen host alone."""
    about = circumstances("benchmarks.adapter_cost", ("torch", "onnxruntime"))
    plan = Plan([int(size) for size in batches.split(",")], tokens, rounds, cpu_time)
    with tempfile.TemporaryDirectory() as scratch, progress() as display:
        written = {name: write_graphs(name, Path(scratch), display) for name in models.split(",")}
        print("graphs are written, now measuring", file=sys.stderr)
        rows = [row for name, one in written.items() for row in measure(name, *one, plan, display)]
    columns = ["model, tower, batch", *(f"{v}, ms" for v in VARIANTS), *RATIOS]
    lines = [
        [
            f"{row['model']}, {row['tower']}, {row['batch']}",
            *(f"{row['ms'][variant]['median']:.1f}" for variant in VARIANTS),
            *(
                f"{spread['median']:.3f} ({spread['lower']:.3f} to {spread['upper']:.3f})"
                for spread in row["ratios"].values()
            ),
        ]
        for row in rows
    ]
    clock = "Processor time of one thread" if cpu_time else "Wall time, all threads"
    note = f"{clock}, {rounds} turns. Ratios of the adapted model are taken within every turn; median and quartiles."
    publish("What an adapter costs", about, [note, table(columns, lines)], {"cpu_time": cpu_time, "rows": rows}, out)


if __name__ == "__main__":
    typer.run(main)
