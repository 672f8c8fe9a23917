"""What to export: an adapter folder, a converted folder or a checkpoint in its authors' format, as a host in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wander.checkpoints import folder
from wander.errors import UsageError


def compose(source: Path, backbone: Path | None = None, known: Mapping[str, Any] | None = None) -> folder.Loaded:
    """The host with its weights.

    Args:
        source: an adapter folder, a folder with `adapter/` and `backbone/`, or a checkpoint file.
        backbone: the backbone folder, where `source` does not bring or name its own.
        known: for a checkpoint file, what it cannot tell itself (`wander convert --config`).

    Raises UsageError if a part is nowhere to be found, CheckpointError if parts do not fit.
    """
    if source.is_dir():
        if known:
            raise UsageError(f"--config is for checkpoint files; {source} is a folder, which tells all itself")
        adapter, beside = folder.locate(source)
        found = backbone or beside
        if found is None:
            raise UsageError(f"{source} has no backbone beside it; name one with --backbone")
        return folder.load(adapter, found)
    if not source.exists():
        raise UsageError(f"{source} does not exist")
    from wander.checkpoints.convert import convert

    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "converted"
        convert(source, out, known or {})
        return folder.load(out / "adapter", backbone or out / "backbone")
