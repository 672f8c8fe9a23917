"""`wander convert` and `wander inspect`. What is heavy is imported when a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from wander.console import print_fields, print_json, stdout

Config = Annotated[Path | None, typer.Option(help="JSON with what a checkpoint cannot tell, such as num_heads.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def convert(
    source: Annotated[Path, typer.Argument(help="A checkpoint in its authors' format.")],
    out: Annotated[Path, typer.Argument(help="A folder that does not exist yet; gets adapter/ and backbone/.")],
    config: Config = None,
    json: Json = False,
) -> None:
    """Convert a checkpoint to an adapter folder and a backbone folder. Nothing in the file is run."""
    from wander.checkpoints.convert import convert as run
    from wander.checkpoints.folder import read_json

    converted = run(source, out, read_json(config) if config else {})
    module = converted.host.adapter_module
    warnings = module.warnings() if module is not None else []
    if json:
        print_json({"out": str(out), "task": converted.about.task, "warnings": warnings})
        return
    for warning in warnings:
        stdout.print(f"warning: {warning}", markup=False)
    stdout.print(f"wrote {out}/adapter and {out}/backbone (task {converted.about.task})", markup=False)


def inspect(
    path: Annotated[Path, typer.Argument(help="A checkpoint, an adapter, a backbone or a bundle.")],
    config: Config = None,
    json: Json = False,
) -> None:
    """Say what a checkpoint, an adapter, a backbone or a bundle holds."""
    from wander.checkpoints.folder import read_json
    from wander.checkpoints.inspect import inspect as run

    found = run(path, read_json(config) if config else {})
    if json:
        print_json(found)
        return
    warnings = found.pop("warnings")
    print_fields(_flat(found))
    for warning in warnings:
        stdout.print(f"warning: {warning}", markup=False)


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as dotted names."""
    flat: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, dict):
            flat.update(_flat(item, f"{prefix}{name}."))
        elif item not in (None, [], ()):
            flat[prefix + name] = item
    return flat
