"""Pictures and clips that stand behind the items of an index, which itself holds vectors alone.

They are kept while the page runs, each under its item's id.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from wander.errors import InputError

FILES = "/demo/gradio_api/file="
MOST = 60
"""Items that visitors may add to one index."""


class Kept:
    """The files of one index.

    Args:
        folder: that the page may show files of.
        kinds: suffixes of files that may be added.
    """

    def __init__(self, folder: Path, index: str, kinds: tuple[str, ...]) -> None:
        self.index, self.kinds = index, kinds
        self._folder = folder / index
        self._paths: dict[str, Path] = {}
        self.items: dict[str, dict[str, Any]] = {}
        """Id -> the item that was put."""

    def add(self, source: Path, field: str) -> tuple[str, Path]:
        """Copies a file; gives it an id. Raises InputError for a kind that is not shown, and if there are enough."""
        suffix = source.suffix.lower()
        if suffix not in self.kinds:
            raise InputError(f"{source.name} is none of {', '.join(self.kinds)}", field)
        if len(self._paths) >= MOST:
            raise InputError(f"{MOST} are enough for a demonstration; empty the index first", field)
        id = uuid4().hex[:12]
        path = self._folder / id / f"{source.stem[:60]}{suffix}"
        path.parent.mkdir(parents=True)
        shutil.copyfile(source, path)
        self._paths[id] = path
        return id, path

    def address(self, id: str) -> str:
        """Where a browser finds the file of an item; empty for one that is not kept here."""
        path = self._paths.get(id)
        return FILES + quote(str(path)) if path is not None else ""

    def drop(self, id: str) -> None:
        if (path := self._paths.pop(id, None)) is not None:
            shutil.rmtree(path.parent)

    def clear(self) -> None:
        self._paths.clear()
        self.items.clear()
        shutil.rmtree(self._folder, ignore_errors=True)
