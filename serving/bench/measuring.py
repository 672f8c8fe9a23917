"""The measurement: cases take turns under one load until all are stable, or a cap is reached."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from serving.bench import server_side
from serving.bench.driver import ENGINE, Driver
from serving.bench.loads import Load, Point, Server, Window
from serving.bench.noise import Rule, half_width
from serving.bench.targets import Case

Watch = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """Attributes:

    warmup_s: of the first turn of a load; later turns leave out their first window.
    turn_windows: windows of a turn, if several cases take turns.
    """

    rule: Rule = field(default_factory=Rule)
    window_s: float = 1.0
    warmup_s: float = 2.0
    turn_windows: int = 3
    generators: int = 1
    seed: int = 0


class Bench:
    """Open cases, each with its own load generators."""

    def __init__(self, cases: Sequence[Case], plan: Plan, watch: Watch = lambda _: None) -> None:
        self.cases, self.plan, self.watch = cases, plan, watch
        self._drivers: list[Driver] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for case in self.cases:
                count = 1 if case.module == ENGINE else self.plan.generators
                self._drivers.append(stack.enter_context(Driver(case.module, case.config, count)))
                if described := self._drivers[-1].described:
                    case.says["engine"] = ", ".join(f"{name} {value}" for name, value in described.items())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def measure(self, load: Load, only: int | None = None, rule: Rule | None = None) -> list[Point]:
        """A point for every case, or for one alone."""
        rule = rule or self.plan.rule
        chosen = [i for i in range(len(self.cases)) if only in (None, i)]
        points = {
            i: Point(self.cases[i].label, load, self.cases[i].batch, generators=self._drivers[i].count) for i in chosen
        }
        sides: dict[int, list[Server]] = {i: [] for i in chosen}
        turn = 0
        while not all(done(point, rule) for point in points.values()):
            # There and back, so that none is always the one after another.
            for i in chosen if turn % 2 == 0 else reversed(chosen):
                sides[i].append(self._turn(i, points[i], turn, rule, alone=len(chosen) == 1))
            turn += 1
        for i in chosen:
            points[i].server = together(sides[i])
        return list(points.values())

    def _turn(self, number: int, point: Point, turn: int, rule: Rule, *, alone: bool) -> Server:
        """Puts a case under load for some windows, which go to its point."""
        case, driver, plan = self.cases[number], self._drivers[number], self.plan
        url = case.url
        pids = driver.pids if url is None else server_side.listeners(url)
        driver.start(point.load, plan.window_s, plan.seed + turn)
        warmup = max(1, math.ceil(plan.warmup_s / plan.window_s)) if turn == 0 else 1
        before: server_side.Snapshot | None = None
        for left in reversed(range(warmup)):
            if left == 0 and url is not None:
                # Its metrics take the server some milliseconds, which are no part of what counts: nor are those below.
                before = server_side.snapshot(url, case.headers, pids)
            driver.window()
            self.watch(f"{point.case}, {point.load.label}: warm-up")
        taken = 0
        while taken < (rule.most if alone else plan.turn_windows) and not (alone and done(point, rule)):
            point.windows.append((turn, driver.window()))
            taken += 1
            self.watch(_so_far(point))
        memory = server_side.usage_of(driver.pids[0])
        point.rest.append(driver.stop())
        after = server_side.snapshot(url, case.headers, pids) if url is not None else None
        if before is None or after is None:
            return _in_process([window for _, window in point.windows[-taken:]], point.batch, memory and memory[1])
        return server_side.between(before, after, case.model)


def stable(point: Point, rule: Rule) -> bool:
    """In an open loop throughput is what was asked for: its windows differ as Poisson has it, and p99 alone decides."""
    p99 = point.series("p99_ms")
    return rule.holds(point.series("throughput") if point.load.kind == "closed" else [1.0] * len(p99), p99)


def done(point: Point, rule: Rule) -> bool:
    """Whether there is nothing to gain from more windows."""
    return stable(point, rule) or len(point.windows) >= rule.most


def together(sides: Sequence[Server]) -> Server:
    """The turns of one case as one: means, and the memory of the last."""
    last = sides[-1]
    batches: dict[str, float] = {}
    for side in sides:
        for bound, count in (side.batches or {}).items():
            batches[bound] = batches.get(bound, 0) + count
    staged = [side.stages_ms for side in sides if side.stages_ms]
    stages = (
        {stage: float(np.mean([one[stage] for one in staged if stage in one])) for stage in staged[-1]}
        if staged
        else None
    )
    return Server(
        stages,
        _mean([side.batch_rows for side in sides]),
        batches or None,
        _mean([side.cpu_cores for side in sides]),
        last.memory_bytes,
        last.source,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _in_process(windows: Sequence[Window], batch: int, memory: float | None) -> Server:
    """What the process says that runs the engine."""
    answered = sum(len(window.latencies) for window in windows)
    stages = None
    if answered:
        queued, ran = (sum(getattr(window, name) for window in windows) for name in ("queued", "ran"))
        stages = {"queue": queued / answered / 1e6, "inference": ran / answered / 1e6}
    cores = sum(window.cpu_s for window in windows) / sum(window.seconds for window in windows)
    where = "measured in the process of the engine"
    source = {"stages": where, "batches": "as asked for", "process": "/proc"}
    return Server(stages, float(batch), None, cores, memory, source)


def _so_far(point: Point) -> str:
    """What a person who waits wants to know."""
    rates, tails = point.series("throughput"), point.series("p99_ms")
    if not rates or not tails:
        return f"{point.case}, {point.load.label}: no answer that is a success"
    sure = half_width(rates)
    about = f" ± {sure:.0%}" if math.isfinite(sure) else ""
    return (
        f"{point.case}, {point.load.label}: window {len(point.windows)}, {np.mean(rates):,.0f}/s{about}, "
        f"p99 {np.mean(tails):.3g} ms"
    )
