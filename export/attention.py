"""Which form of attention a graph gets: the one that was asked for, or the faster one, found by trying both."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from export.trace import OPSETS, trace
from wander.backbones import Host
from wander.backbones._attention import Form
from wander.engines import EngineOptions, Session, engines
from wander.errors import BundleError, EngineError
from wander.manifest import Graph
from wander.signature import Arrays

Wanted = Literal["auto", "products", "operator"]
OPERATOR = "Attention"
GAIN = 0.95
"""The operator is taken if it needs less than this share of the time of the products: fewer programs read its opset."""
BATCHES = (1, 8)
ROUNDS = 7
BLOCK_S = 0.05


@dataclass(frozen=True)
class Choice:
    """Attributes:

    form: what the graph has.
    ratios: if both were tried, time with the operator over time with the products, by batch size.
    note: why there is nothing to compare, if one was to be found.
    """

    form: Form
    ratios: dict[int, float] = field(default_factory=dict)
    note: str = ""

    @property
    def opset(self) -> int:
        return OPSETS[self.form]

    def report(self) -> dict[str, Any]:
        return {"opset": self.opset, **asdict(self)}


def choose(host: Host, name: str, output: str, path: Path, graph: Graph, wanted: Wanted, engine: str) -> Choice:
    """Writes graph `name` of the host to `path`, with attention as `wanted`.

    `auto` is the form that is faster here, on `engine` with all threads, for random batches of 1 and 8.
    """
    trace(host, name, output, path, "products" if wanted == "auto" else wanted)
    if wanted != "auto":
        return Choice(wanted)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        other = Path(scratch) / path.name
        trace(host, name, output, other, "operator")
        if OPERATOR not in {node.op_type for node in onnx.load(other, load_external_data=False).graph.node}:
            return Choice("products", note="no attention that the operator computes")
        sizes = sorted({min(size, graph.max_batch_size) for size in BATCHES})
        inputs = {size: host.random_inputs(name, size, np.random.default_rng(0)) for size in sizes}
        options = EngineOptions(max_batch_size=graph.max_batch_size)
        with engines.get(engine).open(path, graph.signature, options) as products:
            try:
                with engines.get(engine).open(other, graph.signature, options) as operator:
                    ratios = {size: compare(operator, products, arrays) for size, arrays in inputs.items()}
            except (BundleError, EngineError) as error:
                return Choice("products", note=f"{engine} cannot run the operator: {error}")
        if float(np.exp(np.mean(np.log(list(ratios.values()))))) >= GAIN:
            return Choice("products", ratios)
        for file in Path(scratch).iterdir():  # the graph, and its weights if they lie beside it
            file.replace(path.parent / file.name)
        return Choice("operator", ratios)


def compare(one: Session, other: Session, inputs: Arrays) -> float:
    """Time of a batch on one session over that on the other; they take turns. Median over the rounds."""
    calls = max(1, round(BLOCK_S / max(min(_seconds(other, inputs, 1) for _ in range(2)), 1e-9)))
    for session in (one, other):
        _seconds(session, inputs, calls)
    return float(np.median([_seconds(one, inputs, calls) / _seconds(other, inputs, calls) for _ in range(ROUNDS)]))


def _seconds(session: Session, inputs: Arrays, calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        session.run(inputs)
    return (time.perf_counter() - started) / calls
