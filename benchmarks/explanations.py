"""Explanations of the shipped sentiment model on real items: do they add up, do they point at what matters, their cost.

    python -m benchmarks.explanations --data ../shared/data/mosi --out benchmarks/results/explanations

Sums: contributions as the task answers them, from the served graph, against numbers that it had no part in: the score
of the graph `model`, and that of the unfolded host in torch whose adapter is set to zero.

Deletion: a token is taken from an item in two ways, and the score's move is compared for the token with the largest
contribution and for one drawn at random, whose expectation is the mean over all tokens that the item brought.

- factor: it adds nothing to its modality's factor of the unfolded adapter; nothing else changes.
- input: its row becomes the padding row, and everything is computed anew, encoders and residual too.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from benchmarks._timing import Spread, alternate, ratio, short
from benchmarks.results import circumstances, publish, table
from export.compose import compose
from export.parity import answers
from serving.metrics import Metrics
from serving.model import open_model
from serving.settings import Settings
from wander.adapters._fusion import activate
from wander.adapters.wander import Wander
from wander.backbones.base import run
from wander.backbones.late_fusion import LateFusion
from wander.bundle import Bundle
from wander.console import progress
from wander.engines import DEFAULT_ENGINE, EngineOptions, engines
from wander.files import folder_bytes
from wander.manifest import CONTRIBUTIONS, EXPLAIN, MAIN, RESIDUAL
from wander.tasks import tasks
from wander.tasks._sequences import SequenceTask
from wander.training.datasets import arrays, open_dataset

ZOO = Path(__file__).resolve().parents[1] / "zoo" / "mosi-sentiment"
OUTPUT = "score"
SUMS = 200
"""Items whose sums are checked."""
RESAMPLES = 2000
FACTOR, INPUT = "factor", "input"

Array = NDArray[np.float64]


def sums(task: SequenceTask, items: list[Any], explained: dict[str, NDArray[Any]], score: Array, alone: Array) -> Array:
    """|sum of contributions - (score - score of the residual alone)|, (items, modalities)."""
    found = []
    for row, item in enumerate(items):
        outputs = {EXPLAIN: {name: value[row] for name, value in explained.items()}}
        said = task.postprocess({**item, "explain": True}, outputs)["explanation"]["modalities"]
        difference = score[row] - alone[row]
        found.append([abs(sum(m["contributions"]) + m["padding"] - difference) for m in said.values()])
    return np.array(found)


@torch.no_grad()
def without_in_factor(host: LateFusion, inputs: dict[str, NDArray[Any]]) -> dict[str, Array]:
    """Scores (N, ℓ) of every modality when one token adds nothing to its factor."""
    adapter = host.adapter_module
    assert isinstance(adapter, Wander)
    hidden = host.hidden(*(torch.from_numpy(value) for value in inputs.values()))
    features = [activate(adapter.config.activation, down(h)) for down, h in zip(adapter.down, hidden, strict=True)]
    found = {}
    for m, name in enumerate(inputs):
        scores = []
        for token in range(features[m].shape[1]):
            spoiled = list(features)
            spoiled[m] = features[m].clone()
            spoiled[m][:, token] = 0
            fused = adapter.fuse(spoiled)[:, 0] + (hidden[0][:, 0] if adapter.config.residual else 0)
            scores.append(host.head(torch.cat([fused] * host.repeats, 1))[:, 0].double().numpy())
        found[name] = np.stack(scores, 1)
    return found


def without_input(bundle: Bundle, task: SequenceTask, inputs: dict[str, NDArray[Any]]) -> dict[str, Array]:
    """Scores (N, ℓ) of every modality when one row is that of padding, by the served graph."""
    graph, path, found = bundle.manifest.graphs[MAIN], bundle.graph_path(MAIN), {}
    for name, value in inputs.items():
        scores = []
        for token in range(value.shape[1]):
            spoiled = value.copy()
            spoiled[:, token] = task.rows[name]
            answer = answers(graph, path, {**inputs, name: spoiled}, DEFAULT_ENGINE)
            scores.append(answer[OUTPUT][:, 0].astype(np.float64))
        found[name] = np.stack(scores, 1)
    return found


def deletion(
    contributions: Array, moves: Array, given: NDArray[np.bool_], rng: np.random.Generator
) -> dict[str, float]:
    """Moves of the score for the top token against a random one; all (N, tokens). Items of one token say nothing."""
    rows = given.sum(1) > 1
    contributions, moves, given = (a[rows] for a in (contributions, np.abs(moves), given))
    top = moves[np.arange(len(moves)), np.where(given, np.abs(contributions), -1).argmax(1)]
    random = np.where(given, moves, 0).sum(1) / given.sum(1)
    best = np.where(given, moves, 0).max(1)
    resampled = rng.integers(0, len(top), (RESAMPLES, len(top)))
    low, high = np.quantile((top - random)[resampled].mean(1), [0.025, 0.975])
    return {
        "items": len(top),
        "top": float(top.mean()),
        "random": float(random.mean()),
        "largest": float(best.mean()),
        "more_often": float((top > random).mean()),
        "low": float(low),
        "high": float(high),
    }


def deletions(
    bundle: Bundle, task: SequenceTask, host: LateFusion, items: list[Any], inputs: dict[str, Any], explained: Any
) -> list[dict[str, Any]]:
    """Of every modality and of all together, in both ways."""
    rng = np.random.default_rng(0)
    contributions = {name: explained[CONTRIBUTIONS + name][:, :, 0].astype(np.float64) for name in inputs}
    given = {
        name: np.arange(v.shape[1]) < np.array([len(i[name]) for i in items])[:, None] for name, v in inputs.items()
    }
    folded = explained[OUTPUT].astype(np.float64)
    found = []
    for way, scores in (
        (FACTOR, without_in_factor(host, inputs)),
        (INPUT, without_input(bundle, task, inputs)),
    ):
        moves = {name: value - folded for name, value in scores.items()}
        for name in inputs:
            found.append({"way": way, "of": name} | deletion(contributions[name], moves[name], given[name], rng))
        if way == INPUT:  # all but the token that is the residual
            first = next(iter(inputs))
            rest = given[first] & (np.arange(given[first].shape[1]) > 0)
            found.append(
                {"way": way, "of": f"{first} from 1"} | deletion(contributions[first], moves[first], rest, rng)
            )
        together = [np.hstack(list(each.values())) for each in (contributions, moves, given)]
        found.append({"way": way, "of": "all"} | deletion(together[0], together[1], together[2].astype(bool), rng))
    return found


def export(source: Path, model: Path, *options: str) -> dict[str, Any]:
    """`wander export` in a process of its own: its seconds, and bytes."""
    command = [sys.executable, "-m", "wander", "export", str(source), str(model), "--json", *options]
    said: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return said


def opening(bundle: Bundle) -> float:
    """Seconds until a server could answer from it, in a process that has everything imported."""
    started = time.perf_counter()
    open_model(bundle, Settings(keys=None), Metrics()).close(1)
    return time.perf_counter() - started


def cost(source: Path, scratch: Path, rounds: int) -> dict[str, Any]:
    """Export, size, opening and time of an item, with and without the graph that explains."""
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    for number in range(rounds):
        for name, options in (("with", []), ("without", ["--no-explain"])):
            seconds[name].append(export(source, scratch / f"{name}-{number}", *options)["seconds"])
    bundles = {name: Bundle.open(scratch / f"{name}-0") for name in seconds}
    opened = {name: [opening(bundle) for _ in range(3 * rounds)] for name, bundle in bundles.items()}
    bundle, calls = bundles["with"], {}
    for graph in (MAIN, EXPLAIN):
        described = bundle.manifest.graphs[graph]
        session = engines.get(DEFAULT_ENGINE).open(
            bundle.graph_path(graph), described.signature, EngineOptions(threads=1)
        )
        calls[graph] = partial(session.run, {n: v[:1] for n, v in bundle.samples(graph).inputs.items()})
    items = alternate(calls, range(15))
    return {
        "export_s": {name: asdict(Spread.of(values)) for name, values in seconds.items()},
        "bytes": {name: folder_bytes(one.path) for name, one in bundles.items()},
        "graph_bytes": {graph: bundle.graph_path(graph).stat().st_size for graph in (MAIN, EXPLAIN)},
        "open_ms": {name: asdict(Spread.of([1000 * s for s in values])) for name, values in opened.items()},
        "item_ms": {graph: asdict(Spread.of([1000 * s for s in values])) for graph, values in items.items()},
        "item_ratio": asdict(ratio(items[EXPLAIN], items[MAIN])),
    }


def body(found: dict[str, Any]) -> list[str]:
    """The report's paragraphs and tables."""
    added, size, took = found["sums"], found["cost"]["bytes"], found["cost"]
    rows = [
        [
            *(row["way"], row["of"], row["items"], f"{row['top']:.5f}", f"{row['random']:.5f}"),
            *(f"{row['top'] / row['random']:.2f}", f"{row['largest']:.5f}", f"{row['more_often']:.0%}"),
            f"{row['top'] - row['random']:.5f} ({row['low']:.5f} to {row['high']:.5f})",
        ]
        for row in found["deletion"]
    ]
    milliseconds = [
        [what, short(took[key][one]["median"]), short(took[key][other]["median"])]
        for what, key, one, other in (
            ("opening a bundle without, with the graph that explains", "open_ms", "without", "with"),
            ("one item by the graph model, explain", "item_ms", MAIN, EXPLAIN),
        )
    ]
    return [
        f"{added['items']} items of the test split: the contributions of each modality add up to the difference of the "
        f"score and that of the residual alone, with an error of at most {added['largest_error']:.1e} (allowed 1e-4). "
        f"The difference itself is {added['mean_difference']:.4f} on average, and at most "
        f"{added['largest_difference']:.4f}: of this small model the adapter changes little, and little is what there "
        "is to explain.",
        "Taking a token away, mean |move of the score|: the token with the largest |contribution|, a random one, and "
        "the one whose removal moves the score most. The interval is a bootstrap's, 95 %, of the mean difference of "
        "top and random within an item.",
        table(
            ["way", "tokens of", "items", "top", "random", "top / random", "largest", "top above random", "difference"],
            rows,
            texts=2,
        ),
        "*factor*: the token adds nothing to its factor. *input*: its row becomes the padding row and everything is "
        "computed anew; then the encoders pass the change on to other tokens, and to token 0 of the first modality, "
        "which is the residual, whose effect the explanation does not tell; *from 1* leaves that token out of both "
        "sides.",
        f"Exporting takes {short(took['export_s']['with']['median'])} s with the graph that explains, "
        f"{short(took['export_s']['without']['median'])} s without; the bundle has {size['with'] / 1e6:.2f} MB and "
        f"{size['without'] / 1e6:.2f} MB.",
        table(["median milliseconds, one thread", "first", "second"], milliseconds),
    ]


def main(
    data: Annotated[Path, typer.Option(help="The folder of CMU-MOSI.")],
    source: Annotated[Path, typer.Option("--model", help="Adapter and backbone of a sentiment model.")] = ZOO,
    quick: Annotated[bool, typer.Option("--quick", help="One round of each timing: does it run?")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the report here, as .json and as .md.")] = None,
) -> None:
    """Sums, deletion and cost of explanations. Exits 1 if a sum is off by more than 1e-4."""
    about = circumstances("benchmarks.explanations", ("torch", "onnxruntime", "numpy"))
    with tempfile.TemporaryDirectory() as folder, progress() as display:
        display.add_task("explanations", total=None)
        scratch = Path(folder)
        took = cost(source, scratch, 1 if quick else 2)
        bundle, host = Bundle.open(scratch / "with-0"), compose(source).host
        assert isinstance(host, LateFusion)
        task = tasks.get(bundle.manifest.task)(bundle.manifest, bundle.path)
        assert isinstance(task, SequenceTask)
        split = open_dataset(data).load(data, "test", task.inputs)
        inputs, items = arrays(split, task, MAIN), list(split.items)
        graphs = bundle.manifest.graphs
        score, explained = (
            answers(graphs[name], bundle.graph_path(name), inputs, DEFAULT_ENGINE) for name in (MAIN, EXPLAIN)
        )
        removed = deletions(bundle, task, host, items, inputs, explained)
        assert host.adapter_module is not None
        host.adapter_module.zero_()
        alone = run(host.towers(OUTPUT)[MAIN], inputs)[OUTPUT][:, 0].astype(np.float64)
        whole = score[OUTPUT][:, 0].astype(np.float64)
        errors = sums(task, items[:SUMS], explained, whole, alone)
    difference = np.abs(whole - alone)
    found: dict[str, Any] = {
        "sums": {
            "items": len(errors),
            "largest_error": float(errors.max()),
            "residual_error": float(np.abs(explained[RESIDUAL + OUTPUT][:, 0] - alone).max()),
            "mean_difference": float(difference.mean()),
            "largest_difference": float(difference.max()),
        },
        "deletion": removed,
        "cost": took,
    }
    publish("Explanations", about, body(found), found, out)
    if errors.max() > 1e-4:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
