"""What an adapter costs at inference: the adapted, folded graph against its frozen host alone, on ONNX Runtime.

    python -m benchmarks.adapter_cost [--models bert_vit,beit3_base] [--batches 1,8] [--out FILE]

Three graphs of every tower take turns in one run: adapted and folded; the plain host as it is exported without folds;
and the plain host folded alike (its read-out pruned too). Random weights, float32, all threads. Texts of BEiT-3 have
`--tokens` tokens.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict
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
from export.fold import fold
from export.trace import trace
from wander.backbones import Host
from wander.console import progress
from wander.engines import DEFAULT_ENGINE, EngineOptions, engines

VARIANTS = {"adapted, folded": (True, True), "plain": (False, False), "plain, folded": (False, True)}
ADAPTED, PLAIN, PRUNED = VARIANTS


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
    for variant, (adapted, folded) in VARIANTS.items():
        host = MODELS[name](adapted)
        if folded:
            fold(host)
        for tower in display.track(list(host.towers("logits")), description=f"{name}, {variant}"):
            path = out / f"{name}-{tower}-{variant.replace(', ', '-')}.onnx"
            trace(host, tower, "logits", path)
            graphs.setdefault(tower, {})[variant] = path
    return host.to("meta"), graphs


def measure(
    name: str,
    host: Host,
    graphs: dict[str, dict[str, Path]],
    batches: list[int],
    tokens: int,
    rounds: int,
    on: Progress,
) -> list[dict[str, Any]]:
    """Rows for every tower and batch of one model."""
    found = []
    engine = engines.get(DEFAULT_ENGINE)
    for tower, paths in graphs.items():
        signature = host.towers("logits")[tower].signature
        sessions = {v: engine.open(path, signature, EngineOptions()) for v, path in paths.items()}
        for batch in batches:
            arrays = inputs(host, tower, batch, tokens)
            calls = {variant: partial(session.run, arrays) for variant, session in sessions.items()}
            seconds = alternate(calls, on.track(range(rounds), description=f"{name}, {tower}, batch {batch}"))
            found.append(
                {
                    "model": name,
                    "tower": tower,
                    "batch": batch,
                    "ms": {v: asdict(Spread.of([1000 * s for s in own])) for v, own in seconds.items()},
                    "to_plain": asdict(ratio(seconds[ADAPTED], seconds[PLAIN])),
                    "to_plain_folded": asdict(ratio(seconds[ADAPTED], seconds[PRUNED])),
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
    out: Annotated[Path | None, typer.Option(help="Also write FILE.md and FILE.json.")] = None,
) -> None:
    """The adapted model against its frozen host alone."""
    about = circumstances("benchmarks.adapter_cost", ("torch", "onnxruntime"))
    sizes = [int(size) for size in batches.split(",")]
    with tempfile.TemporaryDirectory() as scratch, progress() as display:
        written = {name: write_graphs(name, Path(scratch), display) for name in models.split(",")}
        print("graphs are written, now measuring", file=sys.stderr)
        rows = [row for name, one in written.items() for row in measure(name, *one, sizes, tokens, rounds, display)]
    columns = ["model, tower, batch", *(f"{v}, ms" for v in VARIANTS), "to plain", "to plain, folded", "quartiles"]
    lines = [
        [
            f"{row['model']}, {row['tower']}, {row['batch']}",
            *(f"{row['ms'][variant]['median']:.1f}" for variant in VARIANTS),
            *(f"{row[key]['median']:.3f}" for key in ("to_plain", "to_plain_folded")),
            f"{row['to_plain']['lower']:.3f} to {row['to_plain']['upper']:.3f}",
        ]
        for row in rows
    ]
    note = "Quartiles are those of the ratio to the plain host, taken within every turn."
    publish("What an adapter costs", about, [table(columns, lines), note], {"rows": rows}, out)


if __name__ == "__main__":
    typer.run(main)
