"""`wander export`, `wander triton` and `wander verify`. What is heavy is imported when a command runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from wander.console import number, peak_memory, print_json, print_table, progress, stdout
from wander.files import folder_bytes

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
EngineName = Annotated[str, typer.Option("--engine", help="The engine that must answer as the reference does.")]


def export(
    source: Annotated[
        Path, typer.Argument(help="Adapter folder, converted folder, or a checkpoint in its authors' format.")
    ],
    out: Annotated[
        Path, typer.Argument(help="Folder of the model, such as models/mosi; the next version is written there.")
    ],
    backbone: Annotated[Path | None, typer.Option(help="Backbone folder, if SOURCE has none beside it.")] = None,
    config: Annotated[Path | None, typer.Option(help="JSON with what a checkpoint file cannot tell.")] = None,
    samples: Annotated[Path | None, typer.Option(help="An .npz with inputs for the parity gate.")] = None,
    data: Annotated[Path | None, typer.Option(help="A data set's folder: inputs and labels for the gate.")] = None,
    split: Annotated[str, typer.Option(help="The split of --data that is used.")] = "test",
    precision: Annotated[
        str,
        typer.Option(help="Arithmetic of the graphs: fp32, fp16, bf16, int8 (dynamic) or int8-static (calibrated)."),
    ] = "fp32",
    fold: Annotated[bool, typer.Option("--fold/--no-fold", help="Apply the exact rewrites that remove work.")] = True,
    max_batch_size: Annotated[int, typer.Option(min=1, max=4096, help="Largest batch, checked and served.")] = 32,
    seed: Annotated[int, typer.Option(help="Seed of random inputs.")] = 0,
    engine: Annotated[
        str | None,
        typer.Option(help="The engine that must answer as the reference does (default ort; bf16: openvino)."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain/--no-explain", help="Also make the graph that explains, where there can be one.")
    ] = True,
    attention: Annotated[
        Literal["auto", "products", "operator"],
        typer.Option(
            help="Form of attention in fp32 graphs: products (opset 20), operator (opset 23), or auto: try both."
        ),
    ] = "products",
    triton: Annotated[
        Path | None, typer.Option(help="A Triton model repository that gets a model for every graph, as hard links.")
    ] = None,
    json: Json = False,
) -> None:
    """Turn a trained checkpoint into a verified bundle. Exits 1, and leaves OUT.rejected, if the graphs differ."""
    from export.compose import compose
    from export.options import Options
    from export.pipeline import export as run
    from export.triton import lay_out
    from wander.checkpoints.folder import read_json

    options = Options(fold, max_batch_size, samples, data, split, seed, engine, precision, explain, attention)
    _ = options.narrowing  # a precision that cannot be is refused before anything is loaded
    started = time.monotonic()
    with progress() as display:
        task = display.add_task("load", total=None)
        loaded = compose(source, backbone, read_json(config) if config else None)
        module = loaded.host.adapter_module
        warnings = module.warnings() if module is not None else []
        bundle = run(loaded, out, options, lambda what: display.update(task, description=what))
        entries = lay_out(bundle, triton) if triton is not None else []
    report = bundle.parity
    cost = {
        "seconds": time.monotonic() - started,
        "peak_memory_bytes": peak_memory(),
        "bytes": folder_bytes(bundle.path),
    }
    if json:
        found = {"bundle": str(bundle.path), "version": bundle.version, "parity": report, "warnings": warnings}
        print_json({**found, **cost, **({"triton": [str(entry) for entry in entries]} if entries else {})})
        return
    _print_checks(report["checks"])
    for name, metrics in report["metrics"].items():
        columns = ["", *metrics["reference"]]
        print_table(columns, [[which, *values.values()] for which, values in metrics.items()], f"metrics, {name}")
    for name, one in report.get("narrowed", {}).items():
        kept = f"kept in fp32: {', '.join(one['kept'])}" if one["kept"] else "none kept in fp32"
        stdout.print(f"{name}: {precision}, {one['units']} parts, {kept}; decided on {one['rows']}", markup=False)
    for name, one in report["attention"].items():
        tried = ", ".join(f"{ratio:.3g} at batch {size}" for size, ratio in one["ratios"].items())
        if why := f"time with the operator over that with products: {tried}" if tried else one["note"]:
            stdout.print(f"{name}: attention as {one['form']} ({why})", markup=False)
    if "gate" in report:
        stdout.print(f"gated by {report['gate']}", markup=False)
    for name, used in report["samples"].items():
        stdout.print(f"{name}: {used['rows']} samples ({used['source']})", markup=False)
    for warning in warnings:
        stdout.print(f"warning: {warning}", markup=False)
    size, peak = (f"{number(cost[name] / 1e6)} MB" for name in ("bytes", "peak_memory_bytes"))
    stdout.print(f"wrote {bundle.path}: {size}, in {number(cost['seconds'])} s, peak memory {peak}", markup=False)
    for entry in entries:
        stdout.print(f"laid out for Triton: {entry}", markup=False)


def triton(
    bundle: Annotated[Path, typer.Argument(help="A model's folder (its latest version), or one version's folder.")],
    folder: Annotated[Path, typer.Argument(help="A Triton model repository, new or not.")],
    copy: Annotated[bool, typer.Option("--copy", help="Copy the files, where a hard link cannot be made.")] = False,
    json: Json = False,
) -> None:
    """Lay a bundle out for NVIDIA Triton: a model for every graph, with its config.pbtxt."""
    from export.triton import lay_out
    from wander.bundle import Bundle

    entries = lay_out(Bundle.open(bundle), folder, copy=copy)
    if json:
        print_json({"triton": [str(entry) for entry in entries]})
        return
    for entry in entries:
        stdout.print(f"laid out for Triton: {entry}", markup=False)


def verify(
    bundle: Annotated[Path, typer.Argument(help="A model's folder (its latest version), or one version's folder.")],
    engine: EngineName = "ort",
    json: Json = False,
) -> None:
    """Repeat the parity gate on this machine: every file's sha256, then every graph against its stored references."""
    from export.parity import gate
    from export.parity import verify as run
    from wander.bundle import Bundle

    opened = Bundle.open(bundle)
    checks = run(opened, engine)
    passed = all(check.passed for check in checks)
    if json:
        print_json({"bundle": str(opened.path), "passed": passed, "checks": [check.model_dump() for check in checks]})
        if not passed:
            raise typer.Exit(1)
        return
    _print_checks([check.model_dump() for check in checks])
    gate(checks)
    stdout.print(
        f"{opened.path}: {len(opened.manifest.files)} files unaltered, {len(checks)} checks passed", markup=False
    )


def _print_checks(checks: list[dict[str, Any]]) -> None:
    columns = [
        "graph",
        "engine",
        "batch",
        "sizes",
        "max |a-b|",
        "relative",
        "allowed",
        "1-cosine",
        "agreement",
        "passed",
    ]
    print_table(
        columns,
        (
            [
                check["graph"],
                check["engine"],
                check["batch"],
                ", ".join(f"{name} {size}" for name, size in check["dims"].items()) or "-",
                number(check["max_abs"]),
                number(check["max_rel"]),
                number(check["tolerance"]),
                number(max(0.0, 1 - check["cosine"])),
                f"{check['agreement']:.2%} of {check['decisions']}" if check["decisions"] else "-",
                "yes" if check["passed"] else "NO",
            ]
            for check in checks
        ),
    )
