"""What of a graph is narrowed: all, if that holds; else what costs most, by measurement, stays in fp32 until it does.

Rows of one split decide here, and the gate judges by those of another, so that nothing is fitted to what is reported.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from export import parity
from export.gates import losses
from export.precisions import Narrowing
from export.samples import Inputs
from wander.bundle import DATA_SUFFIX
from wander.errors import BundleError, EngineError, MissingDependency, ParityError, UsageError
from wander.manifest import Graph
from wander.signature import Arrays
from wander.tasks import Task

BROKEN = 1e300
"""The error, or the loss, of a graph that computes nothing of use; JSON has no infinity."""


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
class Together:
    """One choice of parts of all graphs; `loss` as in `Trial`, of the metric of all together."""

    kept: int
    loss: float
    holds: bool


@dataclass(frozen=True)
class Outcome:
    """What was narrowed, and why no more.

    Attributes:
        units: how many parts of the graph could be narrowed on their own.
        kept: those that stay in fp32, the most costly first.
        costs: of every part narrowed alone, its relative error; measured only if not all could be narrowed.
        together: what was tried for all graphs of a bundle, if what they are for together asked for more in fp32.
    """

    units: int
    kept: list[str]
    rows: str
    trials: list[Trial]
    costs: dict[str, float]
    together: list[Together] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


class Search:
    """One graph, which is narrowed in its place, `path`; as it was it lies in `scratch`.

    Attributes:
        units: what can stay in fp32 on its own: a name for people -> the nodes of the graph.
        costs: of units narrowed alone, their relative error, as far as it was measured.
    """

    def __init__(
        self,
        kind: type[Narrowing],
        graph: Graph,
        path: Path,
        rows: Inputs,
        task: type[Task],
        engine: str,
        scratch: Path,
    ) -> None:
        """Raises ParityError for a graph in which nothing can be narrowed."""
        source = scratch / path.name
        for file in (path, path.with_name(path.name + DATA_SUFFIX)):
            if file.exists():
                shutil.move(file, scratch / file.name)
        self.kind, self.graph, self.path, self.rows, self.task, self.engine = kind, graph, path, rows, task, engine
        self._narrowing = kind(source, rows.arrays, scratch)
        self._reference: Arrays = parity.answers(graph, source, rows.arrays, engine)
        self.units = self._narrowing.units()
        self.costs: dict[str, float] = {}
        if not self.units:
            raise ParityError(
                f"{path.name} holds nothing that {kind.precision} could make narrower; use --precision fp32"
            )

    def narrow(self, step: Callable[[str], None] = lambda _: None) -> Outcome:
        """Narrows all that holds.

        Raises ParityError if the gate does not hold even with a single part narrowed, UsageError for an engine that
        cannot run it.
        """
        step("all parts narrowed")
        trials = [self.trial(())]
        order: list[str] = []
        if not trials[0].holds:
            self.measure(step)
            order = sorted(self.units, key=lambda name: (-self.costs[name], name))
            trials += fewest(len(self.units), lambda kept: self.trial(order[:kept]), step)
            if not trials[-1].holds:
                raise ParityError(
                    f"{self.path.name} does not hold in {self.kind.precision} with even one of its {len(self.units)} "
                    f"parts narrowed (loss {trials[-1].loss}, agreement {trials[-1].agreement:.2%}); "
                    "use --precision fp32"
                )
        return Outcome(len(self.units), order[: trials[-1].kept], self.rows.source, trials, self.costs)

    def measure(self, step: Callable[[str], None]) -> None:
        """Fills `costs`, for every part that is not in it yet."""
        for number, name in enumerate(self.units, 1):
            if name not in self.costs:
                step(f"part {number} of {len(self.units)} alone")
                self.costs[name] = self._cost(name)

    def trial(self, kept: Collection[str]) -> Trial:
        """Writes the graph with these units kept, and asks whether it holds."""
        try:
            answer = self._write(kept)
            numbers = parity.compare(self._reference, answer, self.task, self.kind.precision)
        except (ParityError, EngineError):  # not finite, or beyond what the engine computes
            return Trial(len(kept), 0.0, -1.0, BROKEN, None, holds=False)
        loss = None
        if self.rows.labels is not None:
            was, now = (self.task.metrics(a, self.rows.labels) for a in (self._reference, answer))
            loss = max(losses(was, now).values(), default=None)
        holds = bool(numbers["passed"]) and (loss is None or loss <= 1)
        return Trial(len(kept), numbers["agreement"], numbers["cosine"], numbers["max_rel"], loss, holds)

    def _cost(self, alone: str) -> float:
        """The relative error with one unit narrowed and everything else in fp32; `BROKEN` if it is not finite."""
        try:
            answer = self._write([name for name in self.units if name != alone])
            return float(parity.compare(self._reference, answer, self.task, self.kind.precision)["max_rel"])
        except (ParityError, EngineError):
            return BROKEN

    def _write(self, kept: Collection[str]) -> Arrays:
        self._narrowing.write(self.path, [node for name in kept for node in self.units[name]])
        try:
            return parity.answers(self.graph, self.path, self.rows.arrays, self.engine, self.kind.precision)
        except (BundleError, MissingDependency) as error:
            raise UsageError(f"{error}; name another engine for {self.kind.precision} with --engine") from error


class Tried(Protocol):
    """What is known of a graph, or of several, with so many parts kept."""

    @property
    def kept(self) -> int: ...

    @property
    def holds(self) -> bool: ...


T = TypeVar("T", bound=Tried)


def fewest(units: int, trial: Callable[[int], T], step: Callable[[str], None]) -> list[T]:
    """Trials of ever more parts kept, until one holds; then between, for the fewest. The last is the one that counts
    and whose graph was written; it does not hold if none does."""

    def tried(kept: int) -> T:
        step(f"{kept} of {units} parts kept in fp32")
        done.append(trial(kept))
        return done[-1]

    done: list[T] = []
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
