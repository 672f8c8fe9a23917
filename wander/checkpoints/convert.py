"""A checkpoint in its authors' format to our own folder. Nothing of what is in the file is ever run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from wander.checkpoints import folder
from wander.checkpoints.formats import Converted, formats
from wander.checkpoints.reader import read, state_dict
from wander.errors import CheckpointError, UsageError
from wander.files import sha256
from wander.manifest import first_problem


def interpret(source: Path, given: Mapping[str, Any]) -> Converted:
    """The model in a checkpoint file.

    Args:
        given: what the checkpoint cannot tell (`num_heads`, `lengths`, ..).

    Raises CheckpointError for a file that is unsafe, damaged, of an unknown kind, or lacks something; names it.
    """
    checkpoint = read(source)
    tensors = state_dict(checkpoint)
    for _, kind in formats:
        if kind.recognises(tensors.keys()):
            try:
                return kind.convert(checkpoint, tensors, given)
            except ValidationError as error:
                raise CheckpointError(f"{source}: {first_problem(error)}") from error
            except CheckpointError as error:
                raise type(error)(f"{source}: {error}") from error
    known = ", ".join(name for name, _ in formats)
    first = ", ".join(list(tensors)[:4])
    raise CheckpointError(f"{source}: its tensors ({first}, ..) are of no format known here ({known})")


def convert(source: Path, out: Path, given: Mapping[str, Any]) -> Converted:
    """Writes `out/adapter` and `out/backbone`.

    Args:
        given: as for `interpret`; `assets` maps names of files that the preprocessing needs, such as `beit3.spm`, to
            where they are.

    Raises as `interpret` does, and UsageError if `out` exists or an asset cannot be read.
    """
    converted = interpret(source, given)
    backbone_id = str(given.get("backbone_id", f"{source.stem}-{sha256(source)[:12]}"))
    folder.save(converted.host, converted.head, converted.about, out, backbone_id, _assets(given))
    return converted


def _assets(given: Mapping[str, Any]) -> dict[str, bytes]:
    found = {}
    for name, path in given.get("assets", {}).items():
        try:
            found[name] = Path(path).read_bytes()
        except OSError as error:
            raise UsageError(f"assets: {name}: {path} cannot be read: {error.strerror}") from error
    return found
