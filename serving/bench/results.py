"""A measurement as one JSON object, and what has to be said of each point so that nobody reads too much into it."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serving.bench import histogram
from serving.bench.driver import ENGINE
from serving.bench.loads import NS_PER_MS, Point
from serving.bench.measuring import Plan, stable
from serving.bench.noise import Rule, half_width, ratio
from serving.bench.targets import Case
from wander import __version__

SCHEMA = 1
BUSY = 0.8
"""Share of a core from which a generator may be what limits."""
LATE_MS = 1.0
QUANTITIES = {"throughput": 1, "p50_ms": -1, "p99_ms": -1}
"""What is compared, and whether more is better."""


def point_json(point: Point, case: Case, rule: Rule) -> dict[str, Any]:
    recorded = histogram.record(point.latencies)
    measured = histogram.percentiles_ms(recorded)
    late_p99 = float(np.percentile(point.late, 99)) / NS_PER_MS if len(point.late) else None
    busy = sum(window.cpu_s for window in point.all) / sum(window.seconds for window in point.all) / point.generators
    content: dict[str, Any] = {
        "case": point.case,
        "load": {"kind": point.load.kind, "amount": point.load.amount, "label": point.load.label},
        "batch": point.batch,
        "requests": len(point.latencies),
        "errors": {status: n for status, n in sorted(point.statuses.items()) if n and not _good(status)},
        "errors_ms": _failed(point),
        "unsent": point.unsent,
        "throughput": point.throughput,
        "rows_per_s": point.throughput * point.batch,
        "latency_ms": {**measured, "mean": point.mean_ms},
        "corrected_ms": _corrected(point),
        "stable": stable(point, rule),
        "within": {name: _finite(half_width(point.series(name))) for name in ("throughput", "p99_ms")},
        "generator": None
        if case.module == ENGINE
        else {"busy": busy, "late_p99_ms": late_p99, "waited": sum(w.waited for w in point.all)},
        "server": vars(point.server),
        "windows": [window.to_json(turn) for turn, window in point.windows],
        "histogram": histogram.encoded(recorded),
    }
    content["notes"] = notes(content)
    return content


def _failed(point: Point) -> dict[str, float] | None:
    """How fast the server says no. What had no answer at all is not in it."""
    if not len(point.failures):
        return None
    return {f"p{p}": float(np.percentile(point.failures, p)) / NS_PER_MS for p in (50, 99)}


def _corrected(point: Point) -> dict[str, float | None] | None:
    """Of a closed loop: as if every connection had sent at its mean pace, also while it waited for an answer."""
    if point.load.kind == "open" or not point.throughput:
        return None
    interval = point.load.amount / point.throughput * 1e9
    return histogram.percentiles_ms(histogram.record(point.latencies, interval))


def notes(point: Mapping[str, Any]) -> list[str]:
    """What is wrong with a point, or weak."""
    found = []
    generator, latency, load = point["generator"], point["latency_ms"], point["load"]
    if not point["requests"]:
        found.append("nothing was answered with success")
    if point["errors"]:
        listed = ", ".join(f"{status}: {count:,}" for status, count in point["errors"].items())
        found.append(f"errors, which are in no latency: {listed}")
    if point["unsent"]:
        found.append(
            f"the server did not keep up: {point['unsent']:,} requests were due and never sent, so that the latencies "
            "are lower bounds"
        )
    late = generator["late_p99_ms"] if generator else None
    if load["kind"] == "open" and late is not None and late > max(LATE_MS, 0.1 * (latency["p99"] or 0)):
        found.append(f"the generator fell behind its schedule (p99 {late:.3g} ms), which is in the latencies")
    if generator and generator["busy"] > BUSY:
        found.append(f"the generator was busy {generator['busy']:.0%} of a core and may be what limits: --generators")
    if not point["stable"]:
        found.append(f"not stable after {len(point['windows'])} windows")
    if 0 < point["requests"] < 1000:
        found.append(f"p99.9 of {point['requests']} requests is no more than the largest of them")
    return found


def document(
    cases: Sequence[Case], points: Sequence[Mapping[str, Any]], plan: Plan, searches: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    rule = plan.rule
    return {
        "schema": SCHEMA,
        "wander": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "method": {
            "window_s": plan.window_s,
            "warmup_s": plan.warmup_s,
            "generators": plan.generators,
            "seed": plan.seed,
            "stable": f"{rule.least} to {rule.most} windows; 95 % intervals within {rule.throughput:.0%} of the "
            f"throughput and {rule.p99:.0%} of p99",
            "closed": "latency from the first byte sent to the last received; while an answer is waited for, its "
            "connection sends nothing, so that stalls count too little (`corrected_ms` adds what was left out)",
            "open": "latency from the moment at which a request was due (Poisson), whether or not it could "
            "be sent then",
        },
        "cases": [{"label": case.label, "target": case.target, "batch": case.batch, **case.says} for case in cases],
        "points": list(points),
        "comparisons": comparisons(cases, points),
        "searches": list(searches),
    }


def comparisons(cases: Sequence[Case], points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every other case against the first, under the same load; rows a second where the batches differ."""
    if len(cases) < 2:
        return []
    first = {str(point["load"]): point for point in points if point["case"] == cases[0].label}
    pairs = [(first[str(p["load"])], p) for p in points if p["case"] != cases[0].label and str(p["load"]) in first]
    found = []
    for a, b in pairs:
        for quantity in ("throughput", "p99_ms"):
            if b["load"]["kind"] == "open" and quantity == "throughput":
                continue
            scale = b["batch"] / a["batch"] if quantity == "throughput" else 1.0
            values = [value * scale for value in series(b, quantity)]
            if (times := ratio(series(a, quantity), values, comparisons=2 * len(pairs))) is not None:
                name = "rows_per_s" if quantity == "throughput" else quantity
                found.append(
                    {"case": b["case"], "to": a["case"], "load": b["load"]["label"], "quantity": name, **vars(times)}
                )
    return found


def series(point: Mapping[str, Any], quantity: str) -> list[float]:
    """A value for every window that has one."""
    return [window[quantity] for window in point["windows"] if window[quantity] is not None]


def machine() -> dict[str, str]:
    """What has to be known to repeat a run. Names no machine."""
    cpu = platform.machine()
    info = Path("/proc/cpuinfo")
    for line in info.read_text(encoding="utf-8").splitlines() if info.exists() else ():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    cores = len(os.sched_getaffinity(0))
    load = f"{os.getloadavg()[0]:.2f}"
    return {
        "cpu": cpu,
        "cores": str(cores),
        "system": platform.system(),
        "python": platform.python_version(),
        "load average": load,
    }


def _good(status: str) -> bool:
    return status.isdecimal() and 200 <= int(status) < 300


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
