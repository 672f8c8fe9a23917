"""Attention as two products and a softmax, or as ONNX's `Attention`: which graph is faster, model by model.

    python -m benchmarks.attention_forms --models food,bert_vit [--batches 1,8,32] [--engines ort] [--out FILE]

The graphs of a model take turns in one run on every engine: as it is exported (products, opset 20); with the operator
(opset 23); and, where a fold lays attention out in a way that the operator does not know, also without that fold. This
is what `wander export --attention auto` decides for one graph. Shipped models by the name of their folder; those of
published sizes have random weights.
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
import onnx
import typer
from rich.progress import Progress

from benchmarks._models import SEED, named
from benchmarks._timing import Ratio, Spread, alternate, ratio, short
from benchmarks.results import circumstances, publish, table
from export.attention import OPERATOR
from export.trace import trace
from wander.backbones import Host
from wander.backbones._attention import Form
from wander.console import progress
from wander.engines import EngineOptions, engines

LAYOUTS = ("tokens_last", "bounded_scores")
"""Folds that leave no attention which the operator could compute."""
VARIANTS: dict[str, tuple[Form, bool]] = {
    "exported": ("products", True),
    "products": ("products", False),
    "operator": ("operator", False),
}
"""The form, and whether folds of the layout are made."""
EXPORTED, PRODUCTS, FUSED = VARIANTS


def graphs(name: str, out: Path) -> Iterator[tuple[str, Host, dict[str, Path]]]:
    """The towers of a model, a host that tells their inputs, and their graphs; nothing if no graph has the operator."""
    for tower in named(name).towers("output"):
        paths = {}
        for variant, (form, layouts) in VARIANTS.items():
            host = named(name)
            folds = host.folds()
            if variant == PRODUCTS and not any(rewrite.name in LAYOUTS for rewrite in folds):
                continue
            for rewrite in folds:
                if layouts or rewrite.name not in LAYOUTS:
                    rewrite.apply()
            paths[variant] = out / f"{name}-{tower}-{variant}.onnx"
            trace(host, tower, "output", paths[variant], form)
        found = onnx.load(paths[FUSED], load_external_data=False).graph.node
        if any(node.op_type == OPERATOR for node in found):
            yield tower, host, paths
        for path in out.iterdir():
            path.unlink()


def measure(
    name: str, batches: list[int], names: list[str], threads: int, rounds: int, display: Progress
) -> Iterator[dict[str, Any]]:
    """A row for every tower, engine and batch of one model."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    with tempfile.TemporaryDirectory() as scratch:
        for tower, host, paths in graphs(name, Path(scratch)):
            signature = host.towers("output")[tower].signature
            for engine in names:
                with ExitStack() as stack:
                    options = EngineOptions(threads=threads)
                    opened = {
                        variant: stack.enter_context(engines.get(engine).open(path, signature, options))
                        for variant, path in paths.items()
                    }
                    for batch in batches:
                        arrays = host.random_inputs(tower, batch, np.random.default_rng(SEED))
                        answers = {v: next(iter(session.run(arrays).values())) for v, session in opened.items()}
                        calls = {v: partial(session.run, arrays) for v, session in opened.items()}
                        turns = display.track(range(rounds), description=f"{name}, {tower}, {engine}, batch {batch}")
                        seconds = alternate(calls, turns, clock=clock)
                        scale = max(1.0, float(np.abs(answers[EXPORTED]).max()))
                        yield {
                            "model": name,
                            "tower": tower,
                            "engine": engine,
                            "batch": batch,
                            "ms": asdict(Spread.of([1000 * s / batch for s in seconds[EXPORTED]])),
                            "to_exported": {v: asdict(ratio(s, seconds[EXPORTED])) for v, s in seconds.items()},
                            "max_rel_difference": float(np.abs(answers[FUSED] - answers[EXPORTED]).max()) / scale,
                        }


def main(
    models: Annotated[str, typer.Option(help="Shipped models, or those of published size; by commas.")],
    batches: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1,8,32",
    engine: Annotated[str, typer.Option("--engines", help="Engines, separated by commas.")] = "ort,openvino",
    threads: Annotated[int, typer.Option(min=0, help="Threads; 0 for all. Of one, its processor time counts.")] = 0,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of every variant.")] = 11,
    out: Annotated[Path | None, typer.Option(help="Write the report here, as .json and as .md.")] = None,
) -> None:
    """Time both forms of attention."""
    about = circumstances("benchmarks.attention_forms", ("torch", "onnxruntime", "openvino"))
    sizes, names = [int(size) for size in batches.split(",")], engine.split(",")
    with progress() as display:
        rows = [row for name in models.split(",") for row in measure(name, sizes, names, threads, rounds, display)]
    lines = [
        [
            f"{row['model']}, {row['tower']}",
            row["engine"],
            row["batch"],
            short(row["ms"]["median"]),
            Ratio(**row["to_exported"][PRODUCTS]) if PRODUCTS in row["to_exported"] else "the exported",
            Ratio(**row["to_exported"][FUSED]),
            f"{row['max_rel_difference']:.1e}",
        ]
        for row in rows
    ]
    clock = "Processor time of one thread" if threads == 1 else "Wall time"
    note = (
        f"{clock}, {rounds} turns. Ratios to the exported graph are taken within every turn: median (quartiles; and "
        "the ratio of the fastest turns); below 1 is faster. Milliseconds an item are medians, for context only."
    )
    columns = ["model, tower", "engine", "batch", "exported, ms", "products, usual layout", "operator", "difference"]
    publish("Forms of attention", about, [note, table(columns, lines, 2)], {"threads": threads, "rows": rows}, out)


if __name__ == "__main__":
    typer.run(main)
