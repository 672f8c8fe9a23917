"""The folder of models on disk: which models and versions there are, and whether something changed. Loads nothing."""

from __future__ import annotations

import json
from pathlib import Path

from serving.catalog import LATEST
from wander.bundle import versions
from wander.errors import BundleError

ALIASES = "aliases.json"
"""In a model's folder: names for versions, such as `{"stable": "3"}`. What has a name is served beside the latest."""


def model_folders(folder: Path) -> dict[str, Path]:
    """Folders that are meant to be models, by name: rejected, temporary and empty ones are not."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return {p.name: p for p in found if not p.name.startswith(".") and not p.name.endswith(".rejected") and versions(p)}


def read_aliases(model: Path) -> dict[str, str]:
    """Names for versions. Raises BundleError for a file that does not hold them."""
    path = model / ALIASES
    if not path.is_file():
        return {}
    try:
        aliases = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} is no JSON object: {error}") from error
    if not isinstance(aliases, dict) or not all(
        isinstance(version, str) and version.isdecimal() and alias and not alias.isdecimal() and alias != LATEST
        for alias, version in aliases.items()
    ):
        raise BundleError(f'{path} must map names (no numbers, not "{LATEST}") to versions, as {{"stable": "3"}} does')
    return aliases


def fingerprint(folder: Path) -> object:
    """Names, sizes and times of all files below a folder; equal ones mean that nothing there has changed."""
    try:
        stats = [(path, path.stat()) for path in sorted(folder.rglob("*"))]
    except OSError:  # it is being written or removed
        return None
    return [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
