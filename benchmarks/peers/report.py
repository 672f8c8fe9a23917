"""What the run found: tables, and the goals as ratios within turns. Knows neither servers nor wrk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks._timing import Spread, short
from benchmarks.peers.measuring import Case, Ceiling
from benchmarks.peers.servers import FASTAPI, GENERAL, OURS, SPREAD
from benchmarks.results import table

BUSY = 32
"""Connections at which throughput and tails are compared."""
LARGE_BATCH_BUSY = (32, 128)
"""Connections of which the better counts for the large model: those that can fill batches."""


@dataclass(frozen=True)
class Goal:
    """A wanted bound and what was found, with its spread over the turns. `found` is None if it was not measured."""

    says: str
    wanted: str
    found: Spread | None
    met: bool | None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "found": asdict(self.found) if self.found else None}


def at_least(says: str, bound: float, ratios: Sequence[float]) -> Goal:
    found = Spread.of(ratios) if len(ratios) else None
    return Goal(says, f">= {bound:g}", found, None if found is None else found.median >= bound)


def at_most(says: str, bound: float, values: Sequence[float]) -> Goal:
    found = Spread.of(values) if len(values) else None
    return Goal(says, f"<= {bound:g}", found, None if found is None else found.median <= bound)


def quotients(own: Sequence[float], other: Sequence[float]) -> list[float]:
    """Turn by turn; nothing unless both were measured in every turn."""
    return [a / b for a, b in zip(own, other, strict=True)] if len(own) == len(other) else []


def best(cases: Sequence[Case], connections: int) -> Case | None:
    """The one with the highest median throughput."""
    measured = [case for case in cases if case.measured(connections, "requests_per_s")]
    return max(measured, key=lambda case: _median(case, connections, "requests_per_s"), default=None)


def goals(cases: Sequence[Case], top: Ceiling, large: bool) -> list[Goal]:
    return _goals_large(cases, top) if large else _goals_small(cases, top)


def _goals_small(cases: Sequence[Case], top: Ceiling) -> list[Goal]:
    """Of each peer the form that is the fastest for it counts; of ours the binary one."""
    one, two = _ours(cases, OURS), _ours(cases, f"{OURS} --workers 2")
    general = best([case for case in cases if case.server.name in GENERAL], BUSY)
    bare = best([case for case in cases if case.server.name == FASTAPI], BUSY)
    ceiling = top.items_per_s[top.best]
    rate: Callable[[Case | None], list[float]] = lambda case: case.measured(BUSY, "requests_per_s") if case else []  # noqa: E731
    found = [
        at_least(f"one process: requests/s over {_label(general)}", 2.5, quotients(rate(one), rate(general))),
        at_least(f"--workers 2: requests/s over {_label(general)}", 3, quotients(rate(two), rate(general))),
        at_least(f"one process: requests/s over {_label(bare)}", 1.5, quotients(rate(one), rate(bare))),
        at_least("one process: requests/s over the in-process ceiling", 0.75, quotients(rate(one), ceiling)),
        at_least("--workers 2: requests/s over the in-process ceiling", 0.75, quotients(rate(two), ceiling)),
    ]
    tails = {}
    for name in (FASTAPI, *GENERAL):
        peer = [case for case in cases if case.server.name == name and case.measured(BUSY, "p99_ms")]
        if peer:
            tails[name] = min(peer, key=lambda case: _median(case, BUSY, "p99_ms"))
    if tails:
        lowest = min(tails.values(), key=lambda case: _median(case, BUSY, "p99_ms"))
        ratios = quotients(one.measured(BUSY, "p99_ms"), lowest.measured(BUSY, "p99_ms")) if one else []
        found.append(at_most(f"one process: p99 over the lowest of all peers, {_label(lowest)}", 1, ratios))
    alone = top.alone_ms[top.fastest]
    p50 = one.measured(1, "p50_ms") if one else []
    added = [a - b for a, b in zip(p50, alone, strict=True)] if len(p50) == len(alone) else []
    found.append(at_most("one process, 1 connection: ms that the server adds to the in-process p50", 0.3, added))
    return found


def _goals_large(cases: Sequence[Case], top: Ceiling) -> list[Goal]:
    found = []
    for what, name in (("one process", OURS), (SPREAD.removeprefix(f"{OURS} "), SPREAD)):
        case = _ours(cases, name)
        measured = [c for c in LARGE_BATCH_BUSY if case and case.measured(c, "requests_per_s")]
        ratios = []
        if case and measured:
            busiest = max(measured, key=lambda c: _median(case, c, "requests_per_s"))
            ratios = quotients(case.measured(busiest, "requests_per_s"), top.items_per_s[top.best])
        found.append(at_least(f"{what}: items/s over the in-process ceiling at its best batch size", 0.95, ratios))
    return found


def goal_table(found: Sequence[Goal]) -> str:
    verdicts = {True: "yes", False: "no", None: "not measured"}
    rows = [[goal.says, goal.wanted, _spread(goal.found), verdicts[goal.met]] for goal in found]
    return table(["goal (medians of ratios within a turn, quartiles)", "wanted", "found", "met"], rows)


def load_table(cases: Sequence[Case], concurrency: Sequence[int]) -> str:
    """Medians over the turns; what failed says why."""
    columns = ["server, body", *(f"{number} connections" for number in concurrency)]
    rows = []
    for case in cases:
        cells = []
        for number in concurrency:
            if not case.measured(number, "requests_per_s"):
                cells.append("-")
                continue
            rate, p50, p99 = (_median(case, number, what) for what in ("requests_per_s", "p50_ms", "p99_ms"))
            cells.append(f"{rate:,.0f} ({short(p50)} / {short(p99)})")
        rows.append([case.label, *cells])
    return table(columns, rows)


def ceiling_table(top: Ceiling) -> str:
    batches = sorted({batch for _, batch in top.items_per_s})
    rows = []
    for arrangement in dict.fromkeys(arrangement for arrangement, _ in top.items_per_s):
        cells = [f"{np.median(top.items_per_s[arrangement, batch]):,.4g}" for batch in batches]
        rows.append([str(arrangement), *cells])
    return table(["ONNX Runtime in process, items/s", *(f"batch {batch}" for batch in batches)], rows)


def notes(cases: Sequence[Case]) -> str:
    """What the settings and bodies are, and who failed why."""
    lines = {case.server.name: f"- {case.server.name}: {case.server.says}" for case in cases}
    for case in cases:
        lines[case.server.name] += f"; {case.kind}: {case.form.says}"
    failed = [f"- {case.label}: {case.error}" for case in cases if case.error]
    return "\n".join([*lines.values(), *(["", "Failed:", "", *failed] if failed else [])])


def _ours(cases: Sequence[Case], name: str) -> Case | None:
    return next((case for case in cases if case.server.name == name and case.kind == "binary"), None)


def _median(case: Case, connections: int, quantity: str) -> float:
    return float(np.median(case.measured(connections, quantity)))


def _label(case: Case | None) -> str:
    return f"{case.server.name} ({case.kind})" if case else "(none measured)"


def _spread(found: Spread | None) -> str:
    return f"{short(found.median)} ({short(found.lower)} to {short(found.upper)})" if found else "-"
