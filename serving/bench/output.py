"""Points for a terminal and for a spreadsheet. What was not measured is `-` or empty, and never a zero."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serving.bench.server_side import STAGES
from wander.console import number, print_fields, print_table, stdout

PERCENTILES = ("p50", "p90", "p95", "p99", "p99.9", "max")
MB = 1e6
COLUMNS = (
    "case", "load", "amount", "batch", "requests", "throughput", "rows_per_s", *(f"{p}_ms" for p in PERCENTILES),
    "mean_ms", "errors", "unsent", "stable", "within_throughput", "within_p99", "batch_rows",
    *(f"{stage}_ms" for stage in STAGES), "cpu_cores", "memory_bytes", "generator_busy", "generator_late_p99_ms",
    "notes",
)  # fmt: skip


def show(document: Mapping[str, Any], corrected: bool) -> None:
    """Everything a person should see, on stdout."""
    cases, points = document["cases"], document["points"]
    for case in cases:
        stdout.print(f"[bold]{_escaped(case['label'])}[/bold]")
        print_fields({f"  {name}": case[name] for name in case if name not in ("label", "target", "batch")})
    several = len(cases) > 1
    latency = ["load", "requests/s", "±", *(["rows/s"] if any(p["batch"] > 1 for p in points) else []), *PERCENTILES]
    rows = []
    for point in points:
        rate = [f"{point['throughput']:,.0f}", _share(point["within"]["throughput"])]
        if "rows/s" in latency:
            rate.append(f"{point['rows_per_s']:,.0f}")
        ms = [_number(point["latency_ms"][name]) for name in PERCENTILES]
        ms[PERCENTILES.index("p99")] += f" ± {_share(point['within']['p99_ms'])}"
        row = [
            point["load"]["label"],
            *rate,
            *ms,
            f"{sum(point['errors'].values()):,}",
            "yes" if point["stable"] else "no",
        ]
        rows.append([point["case"], *row] if several else row)
    columns = [*latency, "errors", "stable"]
    print_table(["case", *columns] if several else columns, rows, "Latency in ms")
    if corrected:
        _show_corrected(points)
    _show_server(points, several)
    for point in points:
        for note in point["notes"]:
            stdout.print(f"! {point['case']}, {point['load']['label']}: {note}", markup=False)
    for one in document["comparisons"]:
        verdict = "more than noise" if not one["low"] <= 1 <= one["high"] else "noise"
        stdout.print(
            f"{one['load']}: {one['quantity']} of {one['case']} is {one['value']:.3g} times that of {one['to']} "
            f"({one['low']:.3g} to {one['high']:.3g}; {verdict})",
            markup=False,
        )
    for search in document["searches"]:
        found = "no rate" if search["rate"] is None else f"{search['rate']:,.4g} requests/s"
        said = f"{search['case']}: highest rate with p99 up to {search['target_p99_ms']:g} ms: {found}"
        stdout.print(f"[bold]{_escaped(said)}[/bold]")
    stdout.print(f"{method(points)}; stable: {document['method']['stable']}", markup=False)


def method(points: Sequence[Mapping[str, Any]]) -> str:
    """One line that says what a latency is."""
    kinds = {point["load"]["kind"] for point in points}
    said = {
        "closed": "at once (closed loop): from the first byte sent to the last received; stalls count too little",
        "open": "a second (open loop): from the moment at which a request was due",
    }
    return "; ".join(said[kind] for kind in sorted(kinds))


def _show_corrected(points: Sequence[Mapping[str, Any]]) -> None:
    rows = [
        [point["case"], point["load"]["label"], *(_number(point["corrected_ms"][name]) for name in PERCENTILES)]
        for point in points
        if point["corrected_ms"]
    ]
    if rows:
        print_table(
            ["case", "load", *PERCENTILES],
            rows,
            "Closed loops, corrected for what they left out while they waited, in ms",
        )


def _show_server(points: Sequence[Mapping[str, Any]], several: bool) -> None:
    rows, absent = [], set()
    for point in points:
        server = point["server"]
        stages = server["stages_ms"] or {}
        memory = server["memory_bytes"]
        row = [point["load"]["label"], *(_number(stages.get(stage)) for stage in STAGES), _number(server["batch_rows"])]
        row += [_number(server["cpu_cores"]), "-" if memory is None else f"{memory / MB:,.0f}"]
        generator = point["generator"]
        row.append(_share(generator["busy"]) if generator else "-")
        row.append(_number(generator["late_p99_ms"]) if generator else "-")
        rows.append([point["case"], *row] if several else row)
        absent |= {f"{name} {said}" for name, said in server["source"].items() if said.startswith("absent")}
    columns = ["load", *STAGES, "batch rows", "cores busy", "memory, MB", "generator busy", "late p99"]
    print_table(["case", *columns] if several else columns, rows, "The server's own account: mean ms of a request")
    for line in sorted(absent):
        stdout.print(line, markup=False)


def write_csv(path: Path, points: Sequence[Mapping[str, Any]]) -> None:
    """A row a point."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(map(_row, points))


def _row(point: Mapping[str, Any]) -> dict[str, Any]:
    server, generator = point["server"], point["generator"] or {}
    return {
        **{name: point[name] for name in ("case", "batch", "requests", "throughput", "rows_per_s", "unsent", "stable")},
        "load": point["load"]["kind"],
        "amount": point["load"]["amount"],
        **{f"{name}_ms": point["latency_ms"][name] for name in (*PERCENTILES, "mean")},
        "errors": sum(point["errors"].values()),
        "within_throughput": point["within"]["throughput"],
        "within_p99": point["within"]["p99_ms"],
        **{f"{stage}_ms": (server["stages_ms"] or {}).get(stage) for stage in STAGES},
        **{name: server[name] for name in ("batch_rows", "cpu_cores", "memory_bytes")},
        "generator_busy": generator.get("busy"),
        "generator_late_p99_ms": generator.get("late_p99_ms"),
        "notes": "; ".join(point["notes"]),
    }


def _number(value: float | None) -> str:
    return "-" if value is None else number(value)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}" if value >= 0.1 else f"{value:.1%}"


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")
