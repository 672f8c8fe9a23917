"""The run: servers take turns, each checked before it is timed; what fails is kept with its reason."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import ceiling, load
from benchmarks.peers.bodies import Form, Request
from benchmarks.peers.environments import EnvironmentFailed
from benchmarks.peers.models import Graph
from benchmarks.peers.servers import Server, ServerFailed, free_port, post, running

ROWS = 8
"""Different bodies that are posted in turn."""
SEED = 1
BATCHES = (1, 2, 4, 8, 16, 32)
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Plan:
    """Attributes:

    turns: how often every server is started and measured.
    seconds: of one measurement. warm_up: before the first of a start, at 32 connections.
    """

    turns: int
    seconds: float
    warm_up: float
    concurrency: tuple[int, ...]
    environments: Path
    cores: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))


@dataclass
class Case:
    """One server that reads one form, and what was measured of it: connections -> a load for every turn."""

    server: Server
    kind: str
    loads: dict[int, list[load.Load]] = field(default_factory=dict)
    error: str | None = None

    @property
    def form(self) -> Form:
        return self.server.forms[self.kind]

    @property
    def label(self) -> str:
        return f"{self.server.name}, {self.kind}"

    def measured(self, connections: int, quantity: str) -> list[float]:
        """A field of `Load`, a value a turn; empty if it could not be measured."""
        return [getattr(one, quantity) for one in self.loads.get(connections, [])]

    def to_json(self) -> dict[str, Any]:
        return {
            "server": self.server.name,
            "settings": self.server.says,
            "form": self.kind,
            "body": self.form.says,
            "error": self.error,
            "loads": {str(number): [asdict(one) for one in loads] for number, loads in self.loads.items()},
        }


@dataclass
class Ceiling:
    """What ONNX Runtime reaches in process; a value for every turn."""

    items_per_s: dict[tuple[ceiling.Arrangement, int], list[float]] = field(default_factory=dict)
    alone_ms: dict[int, list[float]] = field(default_factory=dict)

    @property
    def best(self) -> tuple[ceiling.Arrangement, int]:
        """Arrangement and batch size with the highest median."""
        return max(self.items_per_s, key=lambda key: float(np.median(self.items_per_s[key])))

    @property
    def fastest(self) -> int:
        """Number of threads with which one item alone takes the least."""
        return min(self.alone_ms, key=lambda key: float(np.median(self.alone_ms[key])))

    def to_json(self) -> dict[str, Any]:
        return {
            "items_per_s": [
                {"arrangement": str(arrangement), "batch": batch, "turns": values}
                for (arrangement, batch), values in self.items_per_s.items()
            ],
            "alone_ms": [{"threads": threads, "turns": values} for threads, values in self.alone_ms.items()],
        }


def cases(servers: Sequence[Server], large: bool) -> list[Case]:
    """Every server with every form; of a large model the binary one, and another only where there is none."""
    found = [Case(server, kind) for server in servers if large or not server.large_only for kind in server.forms]
    if large:
        return [case for case in found if case.kind == "binary" or "binary" not in case.server.forms]
    return found


def measure(graph: Graph, own: Sequence[Case], plan: Plan, keep: Callable[[str, str, str], None]) -> Ceiling:
    """Fills the cases, turn by turn.

    Args:
        keep: is given the turn, what was measured, and what wrk printed of it.
    """
    top = Ceiling()
    inputs = graph.rows(ROWS, SEED)
    expected = ceiling.outputs(graph.path, inputs)
    for turn in range(plan.turns):
        _measure_ceiling(graph, inputs, plan, top)
        first = turn * len(own) // plan.turns  # so that nobody is always next to the same one
        for case in [*own[first:], *own[:first]]:
            try:
                _measure_case(graph, case, inputs, expected, plan, partial(keep, f"turn {turn + 1}"))
            except (ServerFailed, EnvironmentFailed, load.LoadFailed) as error:
                case.error = str(error)
                keep(f"turn {turn + 1}", case.label, f"failed: {error}\n")
    return top


def _measure_ceiling(graph: Graph, inputs: ceiling.Arrays, plan: Plan, top: Ceiling) -> None:
    seconds = plan.seconds / 4
    for arrangement in ceiling.arrangements(plan.cores):
        found = ceiling.items_per_second(graph.path, inputs, BATCHES, arrangement, seconds)
        for batch, rate in found.items():
            top.items_per_s.setdefault((arrangement, batch), []).append(rate)
    for threads in sorted({1, plan.cores}):
        top.alone_ms.setdefault(threads, []).append(ceiling.alone_ms(graph.path, inputs, threads, seconds))


def _measure_case(
    graph: Graph,
    case: Case,
    inputs: ceiling.Arrays,
    expected: Any,
    plan: Plan,
    keep: Callable[[str, str], None],
) -> None:
    rows = [{name: value[i] for name, value in inputs.items()} for i in range(len(expected))]
    requests = [case.form.request(graph, row) for row in rows]
    port = free_port()
    command = case.server.command(graph, case.kind, port, plan.cores, plan.environments)
    with tempfile.TemporaryDirectory() as scratch:
        bodies = Path(scratch) / "bodies"
        bodies.mkdir()
        script = load.prepare(requests, bodies)
        with running(command, port, requests[0], Path(scratch) / "log"):
            check(graph, case.form, port, requests, expected)
            load.run(script, port, 32, plan.warm_up)
            for connections in plan.concurrency:
                seen, said = load.run(script, port, connections, plan.seconds)
                keep(f"{case.label}, {connections} connections", said)
                case.loads.setdefault(connections, []).append(seen)
                if seen.failed:
                    case.error = f"{seen.failed} requests failed at {connections} connections"


def check(graph: Graph, form: Form, port: int, requests: Sequence[Request], expected: Any) -> None:
    """Raises ServerFailed unless every answer is that of ONNX Runtime in this process."""
    for number, request in enumerate(requests):
        status, headers, body = post(port, request)
        if status != 200:
            raise ServerFailed(f"answers {status}: {body[:200].decode(errors='replace')}")
        answer = form.answer(graph, headers, body)
        if answer.shape != expected[number].shape:
            raise ServerFailed(f"answers with shape {answer.shape}, not {expected[number].shape}")
        error = float(np.abs(answer - expected[number]).max())
        if not error <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
            raise ServerFailed(f"answers wrongly: off by {error:.3g}")
