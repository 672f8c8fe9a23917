"""What of a graph is narrowed: all, if that holds; else what costs most, by measurement, stays in fp32 until it does.

Rows of one split decide here, and the gate judges by those of another, so that nothing is fitted to what is reported.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export import parity
from export.gates import losses
from export.precisions import Narrowing
from export.samples import Inputs
from wander.bundle import DATA_SUFFIX
from wander.errors import BundleError, EngineError, MissingDependency, ParityError, UsageError
from wander.manifest import Graph
from wander.signature import Arrays
from wander.tasks import Task


@dataclass(frozen=True)
class Trial:
    """One choice on the rows that decide. `loss` is that of the metric which lost most, in parts of what it may."""

    kept: int
    agreement: float
    cosine: float
    max_rel: float
    loss: float | None
    holds: bool


@dataclass(frozen=True)
class Outcome:
    """What was narrowed, and why no more.

    Attributes:
        units: how many parts of the graph could be narrowed on their own.
        kept: those that stay in fp32, the most costly first.
        costs: of every part narrowed alone, its relative error; measured only if not all could be narrowed.
    """

    units: int
    kept: list[str]
    rows: str
    trials: list[Trial]
    costs: dict[str, float]

    def report(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def narrow(
    kind: type[Narrowing],
    graph: Graph,
    path: Path,
    rows: Inputs,
    task: type[Task],
    engine: str,
    scratch: Path,
    step: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Puts the narrowed graph in the place of that at `path`, which moves to `scratch`.

    Raises ParityError if the gate does not hold even with a single part narrowed, UsageError for an engine that cannot
    run it.
    """
    source = scratch / path.name
    for file in (path, path.with_name(path.name + DATA_SUFFIX)):
        if file.exists():
            shutil.move(file, scratch / file.name)
    search = _Search(kind(source, rows.arrays, scratch), kind, graph, path, rows, task, engine)
    search.reference = parity.answers(graph, source, rows.arrays, engine)
    units = search.narrowing.units()
    if not units:
        raise ParityError(f"{path.name} holds nothing that {kind.precision} could make narrower; use --precision fp32")
    step("all parts narrowed")
    trials = [search.trial(units, ())]
    order: list[str] = []
    costs: dict[str, float] = {}
    if not trials[0].holds:
        for number, name in enumerate(units, 1):
            step(f"part {number} of {len(units)} alone")
            costs[name] = search.cost(units, name)
        order = sorted(units, key=lambda name: (-costs[name], name))
        trials += _fewest(len(units), lambda kept: search.trial(units, order[:kept]), step)
        if not trials[-1].holds:
            raise ParityError(
                f"{path.name} does not hold in {kind.precision} with even one of its {len(units)} parts narrowed "
                f"(loss {trials[-1].loss}, agreement {trials[-1].agreement:.2%}); use --precision fp32"
            )
    return Outcome(len(units), order[: trials[-1].kept], rows.source, trials, costs)


def _fewest(units: int, trial: Callable[[int], Trial], step: Callable[[str], None]) -> list[Trial]:
    """Trials of ever more parts kept, until one holds; then between, for the fewest. The last is the one that counts
    and whose graph was written; it does not hold if none does."""

    def tried(kept: int) -> Trial:
        step(f"{kept} of {units} parts kept in fp32")
        done.append(trial(kept))
        return done[-1]

    done: list[Trial] = []
    low, high = 0, 1  # `low` does not hold
    while high < units and not tried(high).holds:
        low, high = high, 2 * high
    if high >= units:
        high = units - 1
        if high <= low or not tried(high).holds:
            return done
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if tried(middle).holds else (middle, high)
    if done[-1].kept != high:
        tried(high)
    return done


@dataclass
class _Search:
    narrowing: Narrowing
    kind: type[Narrowing]
    graph: Graph
    path: Path
    rows: Inputs
    task: type[Task]
    engine: str
    reference: Arrays | None = None

    def trial(self, units: Mapping[str, Sequence[str]], kept: Collection[str]) -> Trial:
        """Writes the graph with these units kept, and asks whether it holds."""
        assert self.reference is not None
        try:
            answer = self._write(units, kept)
            numbers = parity.compare(self.reference, answer, self.task, self.kind.precision)
        except (ParityError, EngineError):  # not finite, or beyond what the engine computes
            return Trial(len(kept), 0.0, -1.0, 1e300, None, holds=False)
        loss = None
        if self.rows.labels is not None:
            was, now = (self.task.metrics(a, self.rows.labels) for a in (self.reference, answer))
            loss = max(losses(was, now).values(), default=None)
        holds = bool(numbers["passed"]) and (loss is None or loss <= 1)
        return Trial(len(kept), numbers["agreement"], numbers["cosine"], numbers["max_rel"], loss, holds)

    def cost(self, units: Mapping[str, Sequence[str]], alone: str) -> float:
        """The relative error with one unit narrowed and everything else in fp32; 1e300 for one that is not finite."""
        assert self.reference is not None
        try:
            answer = self._write(units, [name for name in units if name != alone])
            return float(parity.compare(self.reference, answer, self.task, self.kind.precision)["max_rel"])
        except (ParityError, EngineError):
            return 1e300

    def _write(self, units: Mapping[str, Sequence[str]], kept: Collection[str]) -> Arrays:
        self.narrowing.write(self.path, [node for name in kept for node in units[name]])
        try:
            return parity.answers(self.graph, self.path, self.rows.arrays, self.engine, self.kind.precision)
        except (BundleError, MissingDependency) as error:
            raise UsageError(f"{error}; name another engine for {self.kind.precision} with --engine") from error
