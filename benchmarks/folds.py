"""What the folds are worth: folded against unfolded, on ONNX Runtime and in eager torch.

    python -m benchmarks.folds [--quick] [--out benchmarks/results/folds.json]

Four variants of every model take turns in one run: the unfolded model in eager torch (the reference), the folded one in
eager torch, and the graphs of both on ONNX Runtime through `wander.engines`. All go from numpy arrays to numpy arrays.
Beside time: nodes of the graph as exported and after ONNX Runtime's own optimisation, matmul FLOPs of one item by
torch's counter, parameters, and how far the answers are from the reference.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import onnx
import onnxruntime
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._timing import Spread, alternate, ratio, short
from benchmarks.results import circumstances, publish, table
from export.fold import fold
from export.trace import trace
from wander.adapters.wander import Wander, WanderConfig
from wander.backbones.base import Host, Tower, run
from wander.backbones.late_fusion import LateFusion, LateFusionConfig, LateFusionHead
from wander.backbones.precomputed import Precomputed, PrecomputedConfig
from wander.checkpoints import folder
from wander.console import progress
from wander.engines import DEFAULT_ENGINE, EngineOptions, engines
from wander.engines.ort import PROVIDER
from wander.signature import BATCH, Arrays
from wander.tasks import tasks

ZOO = Path(__file__).resolve().parents[1] / "zoo" / "mosi-sentiment"
SEED = 0
MODALITIES = ("text", "audio", "vision")
VARIANTS = ("torch unfolded", "torch folded", "ort unfolded", "ort folded")
REFERENCE = VARIANTS[0]


@dataclass(frozen=True)
class Case:
    """One model. `output` is the name that its task gives the result."""

    name: str
    host: Host
    output: str = "output"


@dataclass(frozen=True)
class Plan:
    """How much is measured. `reads`: tokens that are read of the adapter alone; `block`: see `alternate`."""

    layers: int = 32
    reads: tuple[int, ...] = (1, 16)
    batches: tuple[int, ...] = (1, 8, 32)
    rounds: int = 15
    block: float = 0.05


QUICK = Plan(layers=0, reads=(1,), batches=(1, 2), rounds=2, block=0.001)


class FirstTokens(Precomputed):
    """An adapter without a backbone, for a head that reads its first `read` tokens."""

    def __init__(self, adapter: Wander, read: int) -> None:
        super().__init__(PrecomputedConfig(modalities=MODALITIES), adapter)
        self.read = read

    def forward(self, *hidden: Tensor) -> Tensor:
        return super().forward(*hidden)[:, : self.read]

    def towers(self, output: str) -> Mapping[str, Tower]:
        tower = super().towers(output)["model"]
        (spec,) = tower.signature.outputs
        cut = spec.model_copy(update={"dims": (BATCH, self.read, spec.dims[2])})
        return {"model": replace(tower, signature=tower.signature.model_copy(update={"outputs": (cut,)}))}

    def _fold_adapter(self) -> None:
        assert isinstance(self.adapter, Wander)
        self.adapter = self.adapter.fold(self.read)


def cases(plan: Plan, zoo: Path) -> Iterator[Case]:
    """The released sizes with random weights, the shipped model if it is there, and the adapter by itself."""
    torch.manual_seed(SEED)
    config = WanderConfig(embed_dim=40, lengths=(50, 50, 50), down_dim=16, tokens=16, rank_h=8, rank_t=12)
    backbone = LateFusionConfig(
        modalities=MODALITIES,
        feature_dims=(768, 5, 20),
        lengths=config.lengths,
        embed_dim=config.embed_dim,
        num_heads=8,
        encoder_layers=plan.layers,
    )
    host = LateFusion.build(backbone, config, LateFusionHead(out_dim=1))
    assert isinstance(host.adapter, Wander)
    randomise_(host.adapter)
    yield Case(f"late fusion, 3 × {plan.layers} layers", host.eval())
    if (zoo / "adapter" / folder.ADAPTER_CONFIG).is_file():
        loaded = folder.load(zoo / "adapter", zoo / "backbone")
        yield Case(zoo.name, loaded.host, tasks.get(loaded.about.task).output)
    for read in plan.reads:
        adapter = Wander(config)
        randomise_(adapter)
        yield Case(f"adapter alone, {read} of {config.tokens} tokens read", FirstTokens(adapter, read).eval())


@torch.no_grad()
def randomise_(adapter: Wander) -> None:
    """Weights of a trained adapter's size: nothing is zero, and products neither vanish nor explode."""
    adapter.start_training_(scale=0.5)
    adapter.factor_t_list[-1].normal_(std=0.5 / adapter.config.rank_t**0.5)


@dataclass(frozen=True)
class Version:
    """A case, folded or not: its tower, its graph and what can be counted in them."""

    tower: Tower
    graph: Path
    parameters: int
    flops: int
    nodes: int
    nodes_optimised: int

    @classmethod
    def of(cls, case: Case, host: Host, graph: Path) -> Self:
        trace(host, "model", case.output, graph)
        tower = host.towers(case.output)["model"]
        return cls(
            tower,
            graph,
            sum(p.numel() for p in tower.module.parameters()),
            count_flops(tower, inputs_of(case, 1)),
            len(onnx.load(graph).graph.node),
            optimised_nodes(graph),
        )

    def counts(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("parameters", "flops", "nodes", "nodes_optimised")}


def inputs_of(case: Case, rows: int) -> dict[str, NDArray[Any]]:
    return case.host.random_inputs("model", rows, np.random.default_rng(SEED))


def count_flops(tower: Tower, inputs: Arrays) -> int:
    """Matmul FLOPs as torch counts them (2·m·n·k a product)."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        tower.module(*(torch.from_numpy(inputs[spec.name]) for spec in tower.signature.inputs))
    return int(counter.get_total_flops())


def optimised_nodes(graph: Path) -> int:
    """Nodes that are left after ONNX Runtime's optimisation, at the level that is served."""
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.log_severity_level = 3
    settings.optimized_model_filepath = str(graph.with_suffix(".optimised.onnx"))
    onnxruntime.InferenceSession(graph, settings, providers=[PROVIDER])
    return len(onnx.load(settings.optimized_model_filepath).graph.node)


@dataclass
class Result:
    """All that was found of one case. `timings` holds, by threads and batch, the seconds of every variant's rounds."""

    name: str
    folds: list[str]
    counts: dict[str, dict[str, int]]
    difference: dict[str, float] = field(default_factory=dict)
    scale: float = 0.0
    timings: dict[tuple[int, int], dict[str, list[float]]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        rows = []
        for (threads, batch), seconds in self.timings.items():
            row: dict[str, Any] = {"threads": threads, "batch": batch}
            row["ms"] = {name: asdict(Spread.of([1000 * s for s in own])) for name, own in seconds.items()}
            row["to_eager"] = {name: asdict(ratio(own, seconds[REFERENCE])) for name, own in seconds.items()}
            row["folded_to_unfolded"] = {
                runtime: asdict(ratio(seconds[f"{runtime} folded"], seconds[f"{runtime} unfolded"]))
                for runtime in ("torch", "ort")
            }
            rows.append(row)
        return {
            "name": self.name,
            "folds": self.folds,
            "counts": self.counts,
            "max_abs_reference": self.scale,
            "max_abs_difference": self.difference,
            "timings": rows,
        }


def measure(case: Case, plan: Plan, threads: list[int], rounds: Callable[[str], Iterator[object]]) -> Result:
    """Folds, exports, compares and times one case. `rounds` makes the rounds of the measurement so called."""
    rewritten = copy.deepcopy(case.host)
    names = fold(rewritten)
    with tempfile.TemporaryDirectory() as scratch:
        versions = {
            name: Version.of(case, host, Path(scratch) / f"{name}.onnx")
            for name, host in (("unfolded", case.host), ("folded", rewritten))
        }
        result = Result(case.name, names, {name: version.counts() for name, version in versions.items()})
        for count in threads:
            torch.set_num_threads(count)
            calls = _calls(versions, count)
            _compare(result, calls, inputs_of(case, max(plan.batches)))
            for batch in plan.batches:
                arrays = inputs_of(case, batch)
                bound = {name: partial(call, arrays) for name, call in calls.items()}
                label = f"{case.name}, {count} threads, batch {batch}"
                result.timings[count, batch] = alternate(bound, rounds(label), block=plan.block)
    return result


def _calls(versions: Mapping[str, Version], threads: int) -> dict[str, Callable[[Arrays], dict[str, NDArray[Any]]]]:
    engine, options = engines.get(DEFAULT_ENGINE), EngineOptions(threads=threads)
    calls: dict[str, Callable[[Arrays], dict[str, NDArray[Any]]]] = {}
    for name, version in versions.items():
        calls[f"torch {name}"] = partial(run, version.tower)
        calls[f"ort {name}"] = engine.open(version.graph, version.tower.signature, options).run
    return {name: calls[name] for name in VARIANTS}


def _compare(result: Result, calls: Mapping[str, Callable[[Arrays], Arrays]], arrays: Arrays) -> None:
    """Keeps the largest |a-b| of every variant against the reference, over all numbers of threads."""
    (reference,) = calls[REFERENCE](arrays).values()
    result.scale = float(np.abs(reference).max())
    for name, call in calls.items():
        (answer,) = call(arrays).values()
        worst = float(np.abs(answer.astype(np.float64) - reference.astype(np.float64)).max())
        result.difference[name] = max(result.difference.get(name, 0.0), worst)


def body(results: list[Result]) -> list[str]:
    """The report's paragraphs and tables."""
    times = []
    for result in results:
        for (threads, batch), seconds in result.timings.items():
            eager = seconds[REFERENCE]
            gain = {r: ratio(seconds[f"{r} folded"], seconds[f"{r} unfolded"]) for r in ("torch", "ort")}
            noise = max(Spread.of(own).relative for own in seconds.values())
            times.append(
                [
                    result.name,
                    threads,
                    batch,
                    *(short(1000 * Spread.of(seconds[name]).median) for name in VARIANTS),
                    *(ratio(seconds[name], eager) for name in VARIANTS[2:]),
                    *gain.values(),
                    f"{noise:.0%}",
                ]
            )
    counts = [
        [f"{result.name}, {name}", *(f"{found[key]:,}" for key in ("nodes", "nodes_optimised", "parameters", "flops"))]
        for result in results
        for name, found in result.counts.items()
    ]
    differences = [
        [result.name, f"{result.scale:.3g}", *(f"{result.difference[name]:.1e}" for name in VARIANTS[1:])]
        for result in results
    ]
    return [
        "Ratios of times are taken within a round and are medians over the rounds (in brackets the quartiles, and the "
        "ratio of the fastest rounds): below 1 is faster. Milliseconds are medians, for context only. Spread is the "
        "widest quartile distance of a variant over its median.",
        table(
            [
                "model",
                "threads",
                "batch",
                *(f"{name}, ms" for name in VARIANTS),
                "ort unfolded / eager",
                "ort folded / eager",
                "folded / unfolded, torch",
                "folded / unfolded, ort",
                "spread",
            ],
            times,
        ),
        "Nodes of the graph as exported and after ONNX Runtime's own optimisation; matmul FLOPs of one item.",
        table(["model", "nodes", "nodes, optimised", "parameters", "FLOPs"], counts),
        "Largest absolute difference from the unfolded model in eager torch, float32, and the largest value of that.",
        table(["model", "largest value", *VARIANTS[1:]], differences),
    ]


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Tiny sizes: does it run?")] = False,
    threads: Annotated[list[int] | None, typer.Option(min=1, help="Threads of both runtimes; may be repeated.")] = None,
    zoo: Annotated[Path, typer.Option(help="The shipped model; left out if it is not there.")] = ZOO,
    out: Annotated[Path | None, typer.Option(help="Write the report here, as .json and as .md.")] = None,
) -> None:
    """Time, size and error of folded against unfolded models."""
    plan = QUICK if quick else Plan()
    threads = threads or ([1] if quick else sorted({1, os.cpu_count() or 1}))
    about = circumstances("benchmarks.folds", ("torch", "onnxruntime", "onnx", "numpy"))
    with progress() as display:

        def rounds(label: str) -> Iterator[object]:
            task = display.add_task(label, total=plan.rounds)
            for number in range(plan.rounds):
                yield number
                display.advance(task)
            display.remove_task(task)

        results = [measure(case, plan, threads, rounds) for case in list(cases(plan, zoo))]
    publish("Folds", about, body(results), {"cases": [result.to_json() for result in results]}, out)


if __name__ == "__main__":
    typer.run(main)
