"""Two measurements: whether B differs from A by more than noise. Knows only their JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from serving.bench.noise import Ratio, ratio
from serving.bench.results import QUANTITIES, SCHEMA, series
from wander.errors import UsageError

MORE_ERRORS = 0.001
"""Share of requests by which errors may grow."""
Verdict = Literal["noise", "better", "worse", "too few windows"]


@dataclass(frozen=True)
class Difference:
    """One quantity of one point. `ratio` is B over A."""

    point: str
    quantity: str
    a: float
    b: float
    ratio: Ratio | None
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "ratio": self.ratio and vars(self.ratio)}


def read(path: Path) -> dict[str, Any]:
    """What `wander bench --json` wrote. Raises UsageError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or "points" not in content:
        raise UsageError(f"{path} was not written by this version of: wander bench --json")
    return content


def compare(a: Mapping[str, Any], b: Mapping[str, Any], tolerance: float) -> list[Difference]:
    """All points that both have, under the same load with the same batch, case by case.

    Where each has one case, these are compared whatever they are called. Raises UsageError if they have
    nothing in common.
    """
    alone = len(a["cases"]) == len(b["cases"]) == 1

    def key(point: Mapping[str, Any]) -> tuple[Any, ...]:
        load = point["load"]
        return ("" if alone else point["case"], load["kind"], load["amount"], point["batch"])

    others = {key(point): point for point in b["points"]}
    pairs = [(point, others[key(point)]) for point in a["points"] if key(point) in others]
    if not pairs:
        raise UsageError("the two have no point in common: the same case, load and batch")
    count = sum(len(_quantities(one)) for one, _ in pairs)
    found = []
    for one, other in pairs:
        name = one["load"]["label"] if alone else f"{one['case']}, {one['load']['label']}"
        for quantity, sign in _quantities(one).items():
            times = ratio(series(one, quantity), series(other, quantity), comparisons=count)
            values = (_value(one, quantity), _value(other, quantity))
            found.append(Difference(name, quantity, *values, times, _verdict(times, sign, tolerance)))
        shares = (_errors(one), _errors(other))
        if abs(shares[1] - shares[0]) > MORE_ERRORS:
            found.append(Difference(name, "errors", *shares, None, "worse" if shares[1] > shares[0] else "better"))
    return found


def unlike(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """What else differs, so that a difference may come from there."""
    found = [name for name in ("cpu", "cores", "python") if a["machine"][name] != b["machine"][name]]
    found += [name for name in ("window_s", "generators") if a["method"][name] != b["method"][name]]
    for name in ("input", "request", "precision"):
        if [case.get(name) for case in a["cases"]] != [case.get(name) for case in b["cases"]]:
            found.append(name)
    return found


def _quantities(point: Mapping[str, Any]) -> dict[str, int]:
    """In an open loop throughput is what was asked for, and no result."""
    return {
        name: sign for name, sign in QUANTITIES.items() if name != "throughput" or point["load"]["kind"] == "closed"
    }


def _value(point: Mapping[str, Any], quantity: str) -> float:
    values = series(point, quantity)
    return sum(values) / len(values) if values else float("nan")


def _errors(point: Mapping[str, Any]) -> float:
    failed = sum(point["errors"].values())
    return float(failed / max(1, failed + point["requests"]))


def _verdict(times: Ratio | None, sign: int, tolerance: float) -> Verdict:
    if times is None:
        return "too few windows"
    if not times.beyond(tolerance):
        return "noise"
    return "better" if (times.value > 1) == (sign > 0) else "worse"
