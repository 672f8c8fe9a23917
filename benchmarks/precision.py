"""Engines and precisions against eager torch: ms an item, share of the measured peak, error. Random weights, full size.

    python -m benchmarks.precision --graphs DIR --make                  # writes the graphs once; takes minutes
    python -m benchmarks.precision --graphs DIR [--models late_fusion,bert_vit] [--batches 1,8,32] [--out FILE]

Every tower takes turns in one run, on all threads: eager torch in fp32 and bf16, and every CPU engine with every
precision that it has; bf16 of OpenVINO only where the processor has it. The peak is measured in the same run, before
and after, for every precision, by every library at hand (see `benchmarks.roofline`). int8-static is calibrated with
random inputs, as the weights are random: its speed counts here, its error does not; what precision costs a trained
model, `benchmarks.precision_metrics` says. What a model's run found stays in FILE until that model is measured again.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._models import MODELS
from benchmarks._peaks import SIZES, peaks, roofs
from benchmarks._timing import Spread, alternate, ratio, short
from benchmarks.adapter_cost import inputs
from benchmarks.results import circumstances, publish, published, table
from export.fold import fold
from export.precisions import precisions
from export.trace import trace
from serving.cores import usable_cores
from wander.backbones import Host
from wander.backbones.base import run
from wander.engines import EngineOptions, Session, engines
from wander.engines.openvino import has_bf16
from wander.manifest import Precision
from wander.signature import Arrays

EAGER = "eager torch, fp32"
VARIANTS: tuple[tuple[str, str, Precision], ...] = (
    ("ort", "fp32_plain", "fp32"),
    ("ort", "fp32", "fp32"),
    ("ort_branches", "fp32", "fp32"),
    ("ort", "int8", "int8"),
    ("ort", "int8_static", "int8"),
    ("openvino", "fp32", "fp32"),
    ("openvino", "bf16", "bf16"),
    ("openvino", "int8_static", "int8"),
)
"""Engine, the graph that it is given, and whose peak it is measured against. `fp32_plain` is without folds."""
SPREAD = {f"{engine}, fp32, an instance a core": engine for engine in ("ort", "openvino")}
"""The rows of a batch shared out to sessions of one thread each, as the server has them of graphs that gain little from
several cores. Not measured with large weights, of which every session has a copy."""
SPREAD_BYTES = 100_000_000
LONG_S = 1.0
"""A batch that takes eager torch this long gets three turns at most."""
CALIBRATION_ROWS = 8


def folded(name: str, *, narrowed: bool = False) -> Host:
    """A model with its folds, as it is exported."""
    host = MODELS[name](True)
    fold(host, narrowed=narrowed)
    return host


def make(name: str, folder: Path, tokens: int) -> None:
    """Writes the graphs of one model, but for those that are there."""
    host = folded(name)
    for tower in host.towers("logits"):
        rows = inputs(host, tower, CALIBRATION_ROWS, tokens)
        for kind, built in (("fp32", folded), ("fp32_plain", lambda one: MODELS[one](True))):
            full = folder / f"{name}.{tower}.{kind}.onnx"
            if not full.exists():
                print(f"{name}, {tower}: {kind}", file=sys.stderr)
                trace(built(name), tower, "logits", full)  # the tracer uses a host up
        targets = {
            precision: folder / f"{name}.{tower}.{precision}.onnx"
            for _, precision, _ in VARIANTS
            if not precision.startswith("fp32")
        }
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            source = Path(scratch) / f"{name}.{tower}.fp32.onnx"
            for precision, target in targets.items():
                if target.exists():
                    continue
                print(f"{name}, {tower}: {precision}", file=sys.stderr)
                if not source.exists():
                    trace(folded(name, narrowed=True), tower, "logits", source)
                precisions.get(precision)(source, rows, Path(scratch)).write(target, ())


def spread(sessions: Sequence[Session], pool: ThreadPoolExecutor, arrays: Arrays) -> dict[str, NDArray[Any]]:
    """What all sessions together make of the rows."""
    rows = len(next(iter(arrays.values())))
    share = -(-rows // len(sessions))
    parts = [{name: value[at : at + share] for name, value in arrays.items()} for at in range(0, rows, share)]
    answers = list(pool.map(lambda one: one[0].run(one[1]), zip(sessions, parts, strict=False)))
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


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
                if precision == "bf16" and not has_bf16():
                    continue
                path = folder / f"{name}.{tower_name}.{graph}.onnx"
                options = EngineOptions(precision=precision, max_batch_size=max(batches))
                opened = engines.get(engine).open(path, tower.signature, options)
                sessions[f"{engine}, {graph.replace('_', '-')}"] = precision, stack.enter_context(opened)
            single = folder / f"{name}.{tower_name}.fp32.onnx"
            several: dict[str, list[Session]] = {}
            pool = stack.enter_context(ThreadPoolExecutor(usable_cores()))
            if sum(file.stat().st_size for file in folder.glob(f"{single.name}*")) < SPREAD_BYTES:
                options = EngineOptions(1, "fp32", max(batches))
                several = {
                    label: [
                        stack.enter_context(engines.get(engine).open(single, tower.signature, options))
                        for _ in range(usable_cores())
                    ]
                    for label, engine in SPREAD.items()
                }
            for batch in batches:
                arrays = inputs(host, tower_name, batch, tokens)
                started = time.perf_counter()
                (reference,) = run(tower, arrays).values()
                took = time.perf_counter() - started
                calls: dict[str, Callable[[], Arrays]] = {EAGER: partial(run, tower, arrays)}
                calls |= {label: partial(session.run, arrays) for label, (_, session) in sessions.items()}
                calls |= {label: partial(spread, group, pool, arrays) for label, group in several.items()}
                error = {}
                for label in calls.keys() - {EAGER}:
                    (answer,) = calls[label]().values()
                    error[label] = float(np.abs(answer - reference).max() / max(1.0, np.abs(reference).max()))
                turns = rounds if took < LONG_S else min(rounds, 3)
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
        precision = row["variant"].split(", ")[1].partition("-")[0]
        row["of_peak"] *= roofs(before)[precision] / best[precision]
    known = published(out).get("models", {})
    for name in names:
        known[name] = {"run": about, "peaks": best, "rows": [row for row in rows if row["model"] == name]}
    publish("Precisions, random weights", about, said(known), {"models": known}, out)


def said(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What every model's run found, as markdown."""
    cells = [
        [
            f"{row['model']}, {row['tower']}, {row['batch']}",
            row["variant"],
            short(row["ms_per_item"]["median"]),
            f"{row['speedup']['median']:.2f}",
            f"{row['of_peak']:.0%}",
            "reference" if row["max_rel"] is None else f"{row['max_rel']:.1e}",
        ]
        for one in found.values()
        for row in one["rows"]
    ]
    columns = ["model, tower, batch", "variant", "ms an item", f"{EAGER} / this", "of the peak", "max relative error"]
    peaks_of = [
        f"- {name}: {one['run']['date']}, {one['run']['cpu']}, load {one['run']['load average at the start']}; peaks, "
        "the best of all libraries, in GFLOP/s: "
        f"{', '.join(f'{kind} {value:,.0f}' for kind, value in one['peaks'].items())}"
        for name, one in found.items()
    ]
    return ["\n".join(peaks_of), table(columns, cells, 2)]


if __name__ == "__main__":
    typer.run(main)
