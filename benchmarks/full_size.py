"""Full-size models with random weights: what their export costs, and how fast their graphs are.

    python -m benchmarks.full_size [--models bert_vit,beit3_base,beit3_large] [--batches 1,8,32] [--out FILE]
    python -m benchmarks.full_size --batches ""                          # the exports alone

The export is `wander export` in a process of its own, parity gate included; seconds, peak memory and bundle size are
what it reports. Then every tower takes turns in one run: ONNX Runtime on the bundle's graph, eager torch on the
unfolded model, and `torch.compile` of it; float32, all threads. From batch 32 on there are at most three turns, for
they are long. Where `torch.compile` cannot do it, the results say why. What a model's run found stays in FILE until
that model is measured again: a run takes a quarter of an hour for the largest.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from numpy.typing import NDArray
from torch._dynamo.exc import TorchDynamoException

from benchmarks._models import MODELS, write_checkpoint
from benchmarks._timing import Spread, alternate, ratio
from benchmarks.adapter_cost import inputs
from benchmarks.results import circumstances, publish, published, table
from wander.backbones.base import Tower, run
from wander.bundle import Bundle
from wander.console import progress
from wander.engines import DEFAULT_ENGINE, EngineOptions, engines

LONG = 32
"""The batch from which on a turn takes long."""
EAGER, COMPILED, ORT = "eager torch", "torch.compile", "ONNX Runtime"


def export(checkpoint: Path, model: Path) -> dict[str, Any]:
    """`wander export` in a process of its own; what it says of itself."""
    command = [
        sys.executable,
        "-m",
        "wander",
        "export",
        str(checkpoint),
        str(model),
        "--json",
        "--no-explain",
        "--max-batch-size",
        "32",
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    said: dict[str, Any] = json.loads(done.stdout)
    return {
        "seconds": said["seconds"],
        "peak_memory_bytes": said["peak_memory_bytes"],
        "bundle_bytes": said["bytes"],
        "max_rel": max(check["max_rel"] for check in said["parity"]["checks"]),
    }


def compiled(tower: Tower) -> Tower:
    """The same tower, compiled for every batch size anew."""
    return Tower(torch.compile(tower.module, dynamic=False), tower.signature)


def compiles(tower: Tower, arrays: dict[str, NDArray[Any]]) -> str | None:
    """Why `torch.compile` fails, or None. The first call is the one that compiles."""
    try:
        run(tower, arrays)
    except (TorchDynamoException, RuntimeError, MemoryError) as error:
        return str(error).strip().partition("\n")[0] or type(error).__name__
    return None


def measure(name: str, batches: list[int], tokens: int, rounds: int, compiling: bool) -> dict[str, Any]:
    """Export and timings of one model."""
    host = MODELS[name](True)
    parameters = sum(p.numel() for p in host.parameters())
    rows = []
    with tempfile.TemporaryDirectory() as scratch, progress() as display:
        write_checkpoint(host, Path(scratch) / "checkpoint")
        display.add_task(f"{name}: export", total=None)
        exported = export(Path(scratch) / "checkpoint", Path(scratch) / "models" / "model")
        print(f"{name}: {exported}", file=sys.stderr)
        bundle = Bundle.open(Path(scratch) / "models" / "model")
        for tower_name, tower in host.towers("logits").items():
            graph = bundle.manifest.graphs[tower_name]
            session = engines.get(DEFAULT_ENGINE).open(bundle.graph_path(tower_name), graph.signature, EngineOptions())
            for batch in batches:
                arrays = inputs(host, tower_name, batch, tokens)
                calls: dict[str, Callable[[], object]] = {
                    ORT: partial(session.run, arrays),
                    EAGER: partial(run, tower, arrays),
                }
                label = f"{name}, {tower_name}, batch {batch}"
                failure = None if compiling else "not asked for"
                if compiling:
                    torch.compiler.reset()
                    faster = compiled(tower)
                    failure = compiles(faster, arrays)
                    if failure is None:
                        calls[COMPILED] = partial(run, faster, arrays)
                turns = rounds if batch < LONG else min(rounds, 3)
                seconds = alternate(calls, display.track(range(turns), description=label))
                row = {
                    "model": name,
                    "tower": tower_name,
                    "batch": batch,
                    "turns": turns,
                    "no_compile": failure,
                    "ms_per_item": {
                        v: asdict(Spread.of([1000 * s / batch for s in own])) for v, own in seconds.items()
                    },
                    "speedup": {v: asdict(ratio(own, seconds[ORT])) for v, own in seconds.items() if v != ORT},
                }
                print(f"{label}: {row['ms_per_item']}", file=sys.stderr)
                rows.append(row)
            session.close()
    return {"parameters": parameters, "export": exported, "rows": rows}


def main(
    models: Annotated[str, typer.Option(help="Names, separated by commas.")] = "bert_vit,beit3_base,beit3_large",
    batches: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1,8,32",
    tokens: Annotated[int, typer.Option(help="Length of BEiT-3's texts.")] = 16,
    rounds: Annotated[int, typer.Option(help="Turns of every variant.")] = 5,
    compiling: Annotated[bool, typer.Option("--compile/--no-compile", help="Measure torch.compile too.")] = True,
    out: Annotated[Path | None, typer.Option(help="Also write FILE.md and FILE.json.")] = None,
) -> None:
    """Export cost and speed of full-size models."""
    about = circumstances("benchmarks.full_size", ("torch", "onnxruntime", "transformers"))
    sizes = [int(size) for size in batches.split(",") if size]
    known = published(out).get("models", {})
    for name in models.split(","):
        known[name] = {"run": about, **measure(name, sizes, tokens, rounds, compiling)}
    publish("Full-size models, random weights", about, said(known), {"models": known}, out)


def said(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What every model's run found, as markdown."""
    exports = [
        [
            name,
            f"{one['run']['date']}, load {one['run']['load average at the start']}",
            f"{one['parameters'] / 1e6:.1f}",
            f"{one['export']['seconds']:.0f}",
            f"{one['export']['bundle_bytes'] / 1e6:.0f}",
            f"{one['export']['peak_memory_bytes'] / 1e9:.1f}",
            f"{one['export']['max_rel']:.1e}",
        ]
        for name, one in found.items()
    ]
    speeds = [
        [
            f"{row['model']}, {row['tower']}, {row['batch']}",
            *(
                f"{row['ms_per_item'][v]['median']:.1f}" if v in row["ms_per_item"] else "-"
                for v in (ORT, EAGER, COMPILED)
            ),
            *(f"{row['speedup'][v]['median']:.2f}" if v in row["speedup"] else "-" for v in (EAGER, COMPILED)),
        ]
        for one in found.values()
        for row in one["rows"]
    ]
    body = [
        table(
            ["export", "run", "M parameters", "seconds", "bundle, MB", "peak memory, GB", "parity, relative"],
            exports,
            2,
        )
    ]
    if speeds:
        columns = [ORT, EAGER, COMPILED, f"{EAGER} / {ORT}", f"{COMPILED} / {ORT}"]
        body.append(table(["ms an item: model, tower, batch", *columns], speeds))
    failures = [
        f"{row['model']}, {row['tower']}, batch {row['batch']}: no {COMPILED}: {row['no_compile']}"
        for one in found.values()
        for row in one["rows"]
        if row["no_compile"]
    ]
    body += ["\n".join(f"- {failure}" for failure in failures)] if failures else []
    return body


if __name__ == "__main__":
    typer.run(main)
