"""From what a person names to what is measured: a bundle with its engine, or a server with a request.

A target may give several cases: one for every engine and batch size that is asked for. Sends nothing; what has to be
asked of a server, `serving.bench.requests` asks.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.bench.driver import ENGINE, HTTP
from wander.errors import UsageError


@dataclass(frozen=True)
class Wanted:
    """What the options say of targets.

    Attributes:
        batches: rows of one request.
        engines, threads: of bundles. model: name of a model of a server; of a bundle, of a graph.
        protocol: `auto`, `v1` or `v2`. tensors: `binary` or `json`, for v2.
        body: a file that is sent as it is, with `headers`.
        connections: most at once in an open loop.
    """

    batches: Sequence[int] = (1,)
    engines: Sequence[str] = ("ort",)
    threads: int = 0
    model: str | None = None
    protocol: str = "auto"
    tensors: str = "binary"
    body: Path | None = None
    headers: dict[str, str] = field(default_factory=dict)
    key: str | None = field(default=None, repr=False)
    timeout_s: float = 30.0
    connections: int = 512
    length: int = 16
    seed: int = 0


@dataclass(frozen=True)
class Case:
    """Something that can be put under load.

    Attributes:
        module, config: what makes the load, and what it is told.
        says: what is measured, for a person: protocol, model, precision, body.
        url: of the server; None in process. model: as its metrics name it.
    """

    label: str
    target: str
    batch: int
    module: str
    config: dict[str, Any] = field(repr=False)
    says: dict[str, str]
    url: str | None = None
    model: str | None = None
    headers: dict[str, str] = field(default_factory=dict, repr=False)


def resolve(targets: Sequence[str], wanted: Wanted) -> list[Case]:
    """All cases, with labels that tell them apart. Raises UsageError, and what a bundle or a server raises."""
    cases: list[Case] = []
    for target in targets:
        cases += _served(target, wanted) if "://" in target else _bundled(target, wanted)
    labels = [case.label for case in cases]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise UsageError(f"two of the targets are both {twice}; name each once")
    return cases


def _bundled(target: str, wanted: Wanted) -> list[Case]:
    from wander.bundle import Bundle
    from wander.engines import engines

    if wanted.body is not None:
        raise UsageError(f"{target} is a bundle, which gets rows of its own samples; --body is for a URL")
    bundle = Bundle.open(Path(target))
    graphs = bundle.manifest.graphs
    named = {**{name: name for name in graphs}, **bundle.graph_names()}
    if wanted.model is None and len(graphs) > 1:
        raise UsageError(f"{target} has several graphs; name one with --model: {', '.join(graphs)}")
    graph = next(iter(graphs)) if wanted.model is None else named.get(wanted.model)
    if graph is None:
        raise UsageError(f"{target} has no graph {wanted.model!r}; there are: {', '.join(graphs)}")
    largest = graphs[graph].max_batch_size
    rows = bundle.samples(graph).rows
    cases = []
    for engine in wanted.engines:
        if reason := engines.get(engine).unavailable():
            raise UsageError(f"the engine {engine} cannot run here: {reason}")
        for batch in wanted.batches:
            if batch > largest:
                raise UsageError(f"{target} was verified up to batches of {largest}, not {batch}")
            config = {
                "bundle": str(bundle.path),
                "graph": graph,
                "engine": engine,
                "threads": wanted.threads,
                "batch": batch,
                "connections": wanted.connections,
            }
            says = {
                "how": "in process, without server or queue",
                "model": f"{bundle.name} {bundle.version}" + (f", graph {graph}" if len(graphs) > 1 else ""),
                "precision": bundle.manifest.precision,
                "engine": engine,
                "input": f"{batch} of the {rows} rows of its own samples" if batch <= rows else f"its samples, {batch}",
            }
            cases.append(Case(f"{target} {engine} batch {batch}", target, batch, ENGINE, config, says))
    return cases


def _served(target: str, wanted: Wanted) -> list[Case]:
    from serving.bench.requests import Asked, ask

    cases = []
    for batch in wanted.batches:
        asked: Asked = ask(target, batch, wanted)
        config = {
            "host": asked.host,
            "port": asked.port,
            "request": base64.b64encode(asked.request).decode(),
            "timeout_s": wanted.timeout_s,
            "connections": wanted.connections,
        }
        label = f"{target} batch {batch}" if len(wanted.batches) > 1 else target
        cases.append(
            Case(label, target, batch, HTTP, config, asked.says, asked.base, asked.model, dict(asked.authorization))
        )
    return cases
