"""Files that exist whole or not at all, and their sha256. Knows nothing of what is in them."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wander.errors import UsageError


def sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def relative_files(folder: Path) -> list[str]:
    """Every file below `folder`, as sorted paths relative to it, with forward slashes."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def folder_bytes(folder: Path) -> int:
    """Size of all files below a folder."""
    return sum((folder / name).stat().st_size for name in relative_files(folder))


def flush(folder: Path) -> None:
    """Makes a folder and all that is below it durable."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def sync(path: Path) -> None:
    """Makes one file, or the list of names of one folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_text(path: Path, text: str) -> None:
    """Writes a text file in place of one that may be there; a reader sees the old one or the new one, whole."""
    with staging(path) as folder:
        draft = folder / path.name
        draft.write_text(text, encoding="utf-8")
        sync(draft)
        draft.replace(path)
        sync(path.parent)


@contextmanager
def staging(beside: Path) -> Iterator[Path]:
    """A temporary folder in the same file system as `beside`; what was not renamed away is removed at the end."""
    beside.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{beside.name}.", dir=beside.parent))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to be filled; it becomes `target` when the block ends without an error, and not before.

    Raises UsageError if `target` exists.
    """
    if target.exists():
        raise UsageError(f"{target} exists already; name a folder that does not, or remove it")
    with staging(target) as folder:
        yield folder
        flush(folder)
        folder.rename(target)
        sync(target.parent)
