"""`wander bench`: measures bundles and servers, and compares two measurements. What is heavy is imported on a call."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from wander.console import print_json, print_table, progress, stderr, stdout
from wander.errors import MissingDependency, UsageError

if TYPE_CHECKING:
    from serving.bench.loads import Load
    from serving.bench.measuring import Bench

DEFAULT_CONCURRENCY = "1,8,32"
NEEDED = ("hdrh", "httptools", "httpx", "prometheus_client")
FORMS = (".html", ".png")
"""Of a report."""
FIRST_LOOK = 8
"""Connections of the closed loop from whose throughput a search starts."""


class TargetFirst(TyperGroup):
    """`wander bench TARGET` is `wander bench run TARGET`; a folder that is called as a command is `./compare`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=TargetFirst,
    add_completion=False,
    no_args_is_help=True,
    help="Measure latency and throughput: wander bench TARGET, short for: run TARGET. Its options: bench run --help.",
)


@app.command()
def run(
    targets: Annotated[
        list[str], typer.Argument(help="Bundles, or URLs: http://host:port, also with /v1/.. or /v2/models/NAME.")
    ],
    concurrency: Annotated[
        str | None, typer.Option(help=f"Closed loop: so many at once, by commas; default {DEFAULT_CONCURRENCY}.")
    ] = None,
    rate: Annotated[str | None, typer.Option(help="Open loop: Poisson arrivals, so many a second, by commas.")] = None,
    target_p99_ms: Annotated[float | None, typer.Option(min=0, help="Search the highest rate with this p99.")] = None,
    batch: Annotated[str, typer.Option(help="Rows of one request, by commas.")] = "1",
    engine: Annotated[list[str] | None, typer.Option(help="What runs a bundle; several: each.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Threads of a bundle's engine; 0: its own choice.")] = 0,
    model: Annotated[str | None, typer.Option(help="Model of a server with several; graph of such a bundle.")] = None,
    protocol: Annotated[str, typer.Option(help="auto, v1 (ours) or v2 (KServe).")] = "auto",
    tensors: Annotated[str, typer.Option(help="Tensors of v2: binary or json.")] = "binary",
    length: Annotated[int, typer.Option(min=1, help="Size of free dimensions of random v2 tensors.")] = 16,
    body: Annotated[Path | None, typer.Option(help="Post this file to the URL instead.")] = None,
    header: Annotated[list[str] | None, typer.Option(help="Header for --body, 'Name: value'.")] = None,
    key: Annotated[str | None, typer.Option(help="Key of the server.", envvar="WANDER_KEY")] = None,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="After which a request has failed.")] = 30.0,
    connections: Annotated[int, typer.Option(min=1, help="Most at once in an open loop.")] = 512,
    generators: Annotated[int, typer.Option(min=1, help="Processes that make the load.")] = 1,
    window_s: Annotated[float, typer.Option(min=0.05, help="Length of a window.")] = 1.0,
    warmup_s: Annotated[float, typer.Option(min=0, help="What is left out at the start of a load.")] = 2.0,
    min_windows: Annotated[int, typer.Option(min=2, help="Least windows.")] = 5,
    max_windows: Annotated[int, typer.Option(min=2, help="Windows after which it is not stable.")] = 20,
    within: Annotated[float, typer.Option(min=0, help="Stable: 95 % interval of throughput, in %.")] = 5.0,
    within_p99: Annotated[float, typer.Option(min=0, help="Stable: 95 % interval of p99, in %.")] = 10.0,
    corrected: Annotated[
        bool, typer.Option("--corrected", help="Show closed loops corrected for coordinated omission too.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of arrivals and of random tensors.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Write a row a point.")] = None,
    report: Annotated[list[Path] | None, typer.Option(help="Write FILE.html or FILE.png; several: each.")] = None,
) -> None:
    """Measure bundles (in process) and servers. Exits 1 if a load got no answer, or a search found no rate."""
    from serving.bench.loads import Load
    from serving.bench.measuring import Bench, Plan
    from serving.bench.noise import Rule
    from serving.bench.output import show, write_csv
    from serving.bench.results import document, point_json
    from serving.bench.targets import Wanted, resolve

    for path in report or ():
        if path.suffix not in FORMS:
            raise UsageError(f"--report {path}: it ends in {' or '.join(FORMS)}")
    _check_packages([*NEEDED, *(["matplotlib"] if report else [])])
    wanted = Wanted(
        batches=[int(value) for value in _numbers("--batch", batch, whole=True)],
        engines=engine or ["ort"],
        threads=threads,
        model=model,
        protocol=_one_of("--protocol", protocol, "auto", "v1", "v2"),
        tensors=_one_of("--tensors", tensors, "binary", "json"),
        body=body,
        headers=_headers(header or []),
        key=key,
        timeout_s=timeout_s,
        connections=connections,
        length=length,
        seed=seed,
    )
    if min_windows > max_windows:
        raise UsageError(f"--min-windows {min_windows} is more than --max-windows {max_windows}")
    rule = Rule(within / 100, within_p99 / 100, min_windows, max_windows)
    plan = Plan(rule, window_s, warmup_s, generators=generators, seed=seed)
    if concurrency is None and rate is None and target_p99_ms is None:
        concurrency = DEFAULT_CONCURRENCY
    loads = [Load("closed", amount) for amount in _numbers("--concurrency", concurrency or "", whole=True)]
    loads += [Load("open", amount) for amount in _numbers("--rate", rate or "")]
    cases = resolve(targets, wanted)
    by_label = {case.label: case for case in cases}
    points, searches = [], []
    with progress() as display:
        bar = display.add_task("start", total=len(loads) + (len(cases) if target_p99_ms else 0))
        with Bench(cases, plan, lambda said: display.update(bar, description=said)) as bench:
            for load in loads:
                points += [point_json(point, by_label[point.case], rule) for point in bench.measure(load)]
                display.advance(bar)
            for number in range(len(cases)) if target_p99_ms else ():
                assert target_p99_ms is not None
                search, found = _search(bench, number, target_p99_ms, loads)
                searches.append(search)
                points += found
                display.advance(bar)
    result = document(cases, points, plan, searches)
    if csv is not None:
        write_csv(csv, points)
    for path in report or ():
        from serving.bench.report import write

        write(path, result)
    if json:
        print_json(result)
    else:
        show(result, corrected)
    if any(not point["requests"] for point in points) or any(search["rate"] is None for search in searches):
        raise typer.Exit(1)


def _search(
    bench: Bench, number: int, target_ms: float, loads: list[Load]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The highest rate of one case; also the points that were tried, the last of them at that rate."""
    from serving.bench.loads import Load
    from serving.bench.noise import Rule
    from serving.bench.results import point_json
    from serving.bench.search import confirmed, highest

    case, rule = bench.cases[number], bench.plan.rule
    quick = Rule(rule.throughput, rule.p99, 3, max(3, rule.least))
    tried: list[dict[str, Any]] = []

    def tries(allowed: Rule) -> Any:
        def meets(rate: float) -> bool:
            (point,) = bench.measure(Load("open", round(rate, 3)), number, allowed)
            tried.append(point_json(point, case, allowed))
            p99 = tried[-1]["latency_ms"]["p99"]
            return p99 is not None and p99 <= target_ms and not tried[-1]["errors"] and not tried[-1]["unsent"]

        return meets

    (look,) = bench.measure(Load("closed", FIRST_LOOK), number, quick)
    rate = highest(max(look.throughput, 1.0) * 0.8, tries(quick))
    probes = len(tried)
    if rate is not None:
        rate = confirmed(rate, tries(rule))
    short = [
        {
            "rate": p["load"]["amount"],
            "p99_ms": p["latency_ms"]["p99"],
            "errors": sum(p["errors"].values()),
            "unsent": p["unsent"],
        }
        for p in tried
    ]
    return {"case": case.label, "target_p99_ms": target_ms, "rate": rate, "tried": short}, tried[probes:]


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="What `wander bench TARGET --json` wrote.")],
    b: Annotated[Path, typer.Argument(help="The same, of later or of something else.")],
    tolerance: Annotated[float, typer.Option(min=0, help="Differences up to so many % are noise in any case.")] = 5.0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Whether B differs from A by more than noise. Exits 1 if B is worse in anything."""
    from serving.bench.compare import compare as differences
    from serving.bench.compare import read, unlike

    one, other = read(a), read(b)
    found = differences(one, other, tolerance / 100)
    worse = sum(difference.verdict == "worse" for difference in found)
    differs = unlike(one, other)
    if json:
        print_json({"worse": worse, "differs_in": differs, "differences": [d.to_json() for d in found]})
    else:
        if differs:
            stderr.print(f"the two also differ in: {', '.join(differs)}", markup=False)
        columns = ["load", "quantity", "A", "B", "B / A", "interval", "verdict"]
        rows = []
        for d in found:
            ratio = (
                ("-", "-") if d.ratio is None else (f"{d.ratio.value:.3f}", f"{d.ratio.low:.3f} to {d.ratio.high:.3f}")
            )
            rows.append([d.point, d.quantity, d.a, d.b, *ratio, d.verdict])
        print_table(columns, rows)
        stdout.print(
            f"B is {'worse' if worse else 'not worse'}: {worse} of {len(found)} beyond noise and {tolerance:g} %"
        )
    if worse:
        raise typer.Exit(1)


def _numbers(option: str, text: str, *, whole: bool = False) -> list[float]:
    """Raises UsageError for what is no list of positive numbers."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            value = float(part)
        except ValueError:
            raise UsageError(f"{option}: {part!r} is no number") from None
        if not 0 < value < float("inf") or (whole and value != int(value)):
            raise UsageError(f"{option}: {part} is no {'whole ' if whole else ''}number above 0")
        found.append(value)
    return found


def _one_of(option: str, value: str, *known: str) -> str:
    if value not in known:
        raise UsageError(f"{option} is one of {', '.join(known)}, not {value!r}")
    return value


def _headers(lines: list[str]) -> dict[str, str]:
    found = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip() or not (line.isascii() and line.isprintable()):
            raise UsageError(f"--header: {line!r} is not of the form 'Name: value'")
        found[name.strip().lower()] = value.strip()
    return found


def _check_packages(names: list[str]) -> None:
    """Raises MissingDependency, before anything was measured in vain."""
    for name in names:
        if find_spec(name) is None:
            package = "hdrhistogram" if name == "hdrh" else name
            raise MissingDependency(f"{package} is not installed; run: pip install 'wander[bench]'")
