"""Engines and precisions against eager torch: ms an item, share of the measured peak, error. Random weights, full size.

    python -m benchmarks.precision --graphs DIR --make                  # writes the graphs once; takes minutes
    python -m benchmarks.precision --graphs DIR [--models late_fusion,bert_vit] [--batches 1,8,32] [--out FILE]

Every tower takes turns in one run, on all threads: eager torch in fp32 and bf16, and every CPU engine with every
precision that it has. The peak is measured in the same run, before and after, for every precision, by every library at
hand (see `benchmarks.roofline`). int8-static is calibrated with random inputs, as the weights are random: its speed
counts here, its error does not; what precision costs a trained model, `benchmarks.precision_metrics` says.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._models import MODELS
from benchmarks._peaks import SIZES, peaks, roofs
from benchmarks._timing import Spread, alternate, ratio, short
from benchmarks.adapter_cost import inputs
from benchmarks.results import circumstances, publish, table
from export.fold import fold
from export.precisions import precisions
from export.trace import trace
from wander.backbones import Host
from wander.backbones.base import run
from wander.bundle import DATA_SUFFIX
from wander.engines import EngineOptions, engines
from wander.manifest import Precision

EAGER = "eager torch, fp32"
VARIANTS: tuple[tuple[str, str, Precision], ...] = (
    ("ort", "fp32", "fp32"),
    ("ort", "int8", "int8"),
    ("ort", "int8_static", "int8"),
    ("openvino", "fp32", "fp32"),
    ("openvino", "bf16", "bf16"),
    ("openvino", "int8_static", "int8"),
)
"""Engine, the graph that it is given, and whose peak it is measured against."""
CALIBRATION_ROWS = 8


def folded(name: str) -> Host:
    """A model with its folds, as it is exported."""
    host = MODELS[name](True)
    fold(host)
    return host


def make(name: str, folder: Path, tokens: int) -> None:
    """Writes the graphs of one model, but for those that are there."""
    host = folded(name)
    for tower in host.towers("logits"):
        rows = inputs(host, tower, CALIBRATION_ROWS, tokens)
        full = folder / f"{name}.{tower}.fp32.onnx"
        if not full.exists():
            trace(folded(name), tower, "logits", full)  # the tracer uses a host up
        for precision in dict.fromkeys(graph for _, graph, _ in VARIANTS if graph != "fp32"):
            target = folder / f"{name}.{tower}.{precision}.onnx"
            if target.exists():
                continue
            print(f"{name}, {tower}: {precision}", file=sys.stderr)
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                source = Path(scratch) / full.name
                for file in (full, full.with_name(full.name + DATA_SUFFIX)):
                    if file.exists():
                        shutil.copyfile(file, Path(scratch) / file.name)  # onnx reads no file that has a second name
                precisions.get(precision)(source, rows, Path(scratch)).write(target, ())


def measure(
    name: str, folder: Path, batches: list[int], tokens: int, rounds: int, best: dict[str, float]
) -> Iterator[dict[str, Any]]:
    """A row for every tower and batch."""
    host = MODELS[name](True)
    for tower_name, tower in host.towers("logits").items():
        one = inputs(host, tower_name, 1, tokens)
        with FlopCounterMode(display=False) as counter:
            run(tower, one)
        flops = counter.get_total_flops()
        with ExitStack() as stack:
            sessions = {}
            for engine, graph, precision in VARIANTS:
                path = folder / f"{name}.{tower_name}.{graph}.onnx"
                options = EngineOptions(precision=precision, max_batch_size=max(batches))
                opened = engines.get(engine).open(path, tower.signature, options)
                sessions[f"{engine}, {graph.replace('_', '-')}"] = precision, stack.enter_context(opened)
            for batch in batches:
                arrays = inputs(host, tower_name, batch, tokens)
                (reference,) = run(tower, arrays).values()
                calls: dict[str, Callable[[], object]] = {EAGER: partial(run, tower, arrays)}
                calls |= {label: partial(session.run, arrays) for label, (_, session) in sessions.items()}
                error = {}
                for label, (_, session) in sessions.items():
                    (answer,) = session.run(arrays).values()
                    error[label] = float(np.abs(answer - reference).max() / max(1.0, np.abs(reference).max()))
                turns = rounds if batch < 32 else min(rounds, 3)
                seconds = alternate(calls, range(turns), block=0.2)
                for label, own in seconds.items():
                    precision = sessions[label][0] if label in sessions else "fp32"
                    yield {
                        "model": name,
                        "tower": tower_name,
                        "batch": batch,
                        "variant": label,
                        "turns": turns,
                        "ms_per_item": asdict(Spread.of([1000 * s / batch for s in own])),
                        "speedup": asdict(ratio(seconds[EAGER], own)),
                        "of_peak": flops * batch / min(own) / 1e9 / best[precision],
                        "max_rel": error.get(label),
                    }


def main(
    graphs: Annotated[Path, typer.Option(help="Folder of the graphs; they are large.")],
    make_them: Annotated[bool, typer.Option("--make", help="Write the graphs, and measure nothing.")] = False,
    models: Annotated[str, typer.Option(help="Names, separated by commas.")] = "late_fusion,bert_vit,beit3_base",
    batches: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1,8,32",
    tokens: Annotated[int, typer.Option(help="Length of BEiT-3's texts.")] = 16,
    rounds: Annotated[int, typer.Option(help="Turns of every variant.")] = 5,
    seconds: Annotated[float, typer.Option(help="For the peak of every library and precision, twice.")] = 2.0,
    out: Annotated[Path | None, typer.Option(help="Also write FILE.md and FILE.json.")] = None,
) -> None:
    """CPU engines and precisions on full-size models."""
    graphs.mkdir(parents=True, exist_ok=True)
    names, sizes = models.split(","), [int(size) for size in batches.split(",")]
    if make_them:
        for name in names:
            make(name, graphs, tokens)
        return
    about = circumstances("benchmarks.precision", ("torch", "onnxruntime", "openvino"))
    torch.set_grad_enabled(False)
    before = peaks(seconds, SIZES)
    rows = [row for name in names for row in measure(name, graphs, sizes, tokens, rounds, roofs(before))]
    best = roofs([*before, *peaks(seconds, SIZES)])
    for row in rows:  # against the higher of both
        precision = row["variant"].partition(", ")[2].partition("-")[0]
        row["of_peak"] *= roofs(before)[precision] / best[precision]
    cells = [
        [
            f"{row['model']}, {row['tower']}, {row['batch']}",
            row["variant"],
            short(row["ms_per_item"]["median"]),
            f"{row['speedup']['median']:.2f}",
            f"{row['of_peak']:.0%}",
            "reference" if row["max_rel"] is None else f"{row['max_rel']:.1e}",
        ]
        for row in rows
    ]
    columns = ["model, tower, batch", "variant", "ms an item", f"{EAGER} / this", "of the peak", "max relative error"]
    said = "Peaks, the best of all libraries: " + ", ".join(f"{name} {value:,.0f}" for name, value in best.items())
    publish("Precisions, random weights", about, [said + " GFLOP/s.", table(columns, cells, 2)],
            {"peaks": best, "rows": rows}, out)  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
