"""What each fold is worth: the graph with all folds against the graph with all but one, on ONNX Runtime.

    python -m benchmarks.each_fold [--models late_fusion,mosi-sentiment] [--batches 1,8,32] [--out FILE]

Shipped models by the name of their folder; those of published sizes have random weights. All graphs of a tower take
turns in one run, on one thread, whose processor time counts. What a fold is worth beside the others is no more than
that: one whose work another does as well (`tokens_last` and `bounded_scores`) seems to be worth nothing.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import Progress

from benchmarks._models import SEED, named
from benchmarks._timing import Ratio, Spread, alternate, ratio, short
from benchmarks.results import circumstances, publish, table
from export.trace import trace
from wander.backbones import Host
from wander.console import progress
from wander.engines import DEFAULT_ENGINE, EngineOptions, engines

ALL = "all folds"


def without(name: str, left_out: str) -> Host:
    """A model with all folds but one."""
    host = named(name)
    for rewrite in host.folds():
        if rewrite.name != left_out:
            rewrite.apply()
    return host


def measure(name: str, batches: list[int], rounds: int, display: Progress) -> Iterator[dict[str, Any]]:
    """A row for every tower, fold and batch of one model."""
    folds = [ALL, *(rewrite.name for rewrite in named(name).folds())]
    engine, options = engines.get(DEFAULT_ENGINE), EngineOptions(threads=1)
    for tower, one in named(name).towers("output").items():
        with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
            sessions = {}
            for fold in display.track(folds, description=f"{name}, {tower}: graphs"):
                path = Path(scratch) / f"{fold}.onnx"
                trace(without(name, fold), tower, "output", path)
                sessions[fold] = stack.enter_context(engine.open(path, one.signature, options))
            for batch in batches:
                arrays = named(name).random_inputs(tower, batch, np.random.default_rng(SEED))
                calls = {fold: partial(session.run, arrays) for fold, session in sessions.items()}
                turns = display.track(range(rounds), description=f"{name}, {tower}, batch {batch}")
                seconds = alternate(calls, turns, clock=time.thread_time)
                for fold in folds[1:]:
                    yield {
                        "model": name,
                        "tower": tower,
                        "batch": batch,
                        "fold": fold,
                        "ms": asdict(Spread.of([1000 * s / batch for s in seconds[ALL]])),
                        "with_to_without": asdict(ratio(seconds[ALL], seconds[fold])),
                    }


def main(
    models: Annotated[
        str, typer.Option(help="Shipped models, or those of published size; by commas.")
    ] = "late_fusion,mosi-sentiment,food,flickr8k-image-text,clips-text-video",
    batches: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1,8",
    rounds: Annotated[int, typer.Option(min=1, help="Turns of every graph.")] = 11,
    out: Annotated[Path | None, typer.Option(help="Write the report here, as .json and as .md.")] = None,
) -> None:
    """Time a model with and without each of its folds."""
    about = circumstances("benchmarks.each_fold", ("torch", "onnxruntime"))
    sizes = [int(size) for size in batches.split(",")]
    with progress() as display:
        rows = [row for name in models.split(",") for row in measure(name, sizes, rounds, display)]
    found: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((f"{row['model']}, {row['tower']}", row["fold"]), {})[row["batch"]] = row
    lines = [
        [*which, *(cell for size in sizes for cell in _cells(by_batch[size]))] for which, by_batch in found.items()
    ]
    columns = ["model, tower", "fold"]
    columns += [text for size in sizes for text in (f"all folds, batch {size}, ms", f"with / without, batch {size}")]
    note = (
        f"Processor time of one thread, {rounds} turns. Time of an item with all folds, for context; and the ratio of "
        "that to the time without the one fold, taken within every turn: median (quartiles; and the ratio of the "
        "fastest turns). Below 1 the fold pays."
    )
    publish("Each fold", about, [note, table(columns, lines, 2)], {"rounds": rounds, "rows": rows}, out)


def _cells(row: dict[str, Any]) -> tuple[str, str]:
    return short(row["ms"]["median"]), str(Ratio(**row["with_to_without"]))


if __name__ == "__main__":
    typer.run(main)
