"""`wander extract`: video files to the features of a model's experts, without a server."""

from __future__ import annotations

import json as codec
from pathlib import Path
from typing import Annotated, Any

import typer

from wander.console import progress, stderr, stdout

EXTRACTORS = "extractors"


def extract(
    config: Annotated[
        Path, typer.Argument(help='JSON with {"extractors": {expert: {"kind": ..}}}, or a bundle that names them.')
    ],
    files: Annotated[list[Path], typer.Argument(help="Video files; their names become the ids.")],
    out: Annotated[Path, typer.Option(help="New file of items, one JSON object a line.")],
) -> None:
    """Make the features of video files, as items for `wander index add --jsonl`; also what a server cannot make.

    Exits 1 if a file is refused.
    """
    from wander.bundle import Bundle
    from wander.errors import InputError, UsageError
    from wander.extractors import VideoLimits, Watching

    if out.exists():
        raise UsageError(f"{out} exists already; name a file that does not, or remove it")
    if config.is_dir():
        bundle = Bundle.open(config)
        declared, folder = bundle.manifest.preprocessing.get(EXTRACTORS, {}), bundle.path
    else:
        declared, folder = _declared(config), config.parent
    if not declared:
        raise UsageError(f"{config} names no extractors")
    watching = Watching(declared, folder, VideoLimits(), serving=False)
    failed = 0
    with progress() as display, out.open("w", encoding="utf-8") as lines:
        for file in display.track(files, description="extract"):
            try:
                found = watching(file.read_bytes(), file.name)
            except OSError as error:
                raise UsageError(f"{file} cannot be read: {error.strerror}") from error
            except InputError as error:
                failed += 1
                stderr.print(str(error), markup=False, soft_wrap=True)
                continue
            experts = {
                name: {field: values.tolist() for field, values in one.item().items()} for name, one in found.items()
            }
            lines.write(codec.dumps({"id": file.name, "video": {"experts": experts}}, separators=(",", ":")) + "\n")
    stdout.print(f"wrote {out}: {len(files) - failed} of {len(files)} videos", markup=False)
    if failed:
        raise typer.Exit(1)


def _declared(config: Path) -> dict[str, dict[str, Any]]:
    from wander.errors import UsageError

    try:
        declared = codec.loads(config.read_text(encoding="utf-8"))[EXTRACTORS]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f'{config} is no JSON file with {{"extractors": {{..}}}}') from error
    if not isinstance(declared, dict) or not all(isinstance(one, dict) for one in declared.values()):
        raise UsageError(f"{config}: extractors must be an object of objects")
    return declared
