"""The indexes of a folder, by name: made when something is put into them, and opened when they are asked for."""

from __future__ import annotations

import logging
import os
import re
import shutil
import threading
from pathlib import Path

from serving.index.base import Index, IndexOptions, Origin, Stats
from wander.errors import EngineError, InputError, NotFound, ServiceError, UsageError
from wander.files import new_folder, staging, sync
from wander.registry import Registry

log = logging.getLogger(__name__)

kinds: Registry[Index] = Registry("serving.index", Index)
DEFAULT_KIND = "embedded"
KIND = "kind"
"""File in the folder of an index with the name of its kind."""
REMOVED = "removed"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


DEFAULT_OPTIONS = IndexOptions()


class Indexes:
    """Several threads may call it. Nothing is written before the first index is made.

    Args:
        folder: has a folder for every index.
        kind: of the indexes that are made; one that is there keeps its own.
    """

    def __init__(self, folder: Path, kind: str = DEFAULT_KIND, options: IndexOptions = DEFAULT_OPTIONS) -> None:
        self.folder = folder
        self.kind = kind
        self.options = options
        self._opened: dict[str, Index] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Names of all indexes, sorted."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(path.name for path in found if NAME.fullmatch(path.name) and (path / KIND).is_file())

    def last_stats(self) -> list[tuple[str, Stats]]:
        """Of those that are open, by name; waits for no disk and no server."""
        return [(name, index.last_stats()) for name, index in sorted(self._opened.copy().items())]

    def get(self, name: str) -> Index:
        """Raises InputError for what is no name, NotFound, and EngineError for an index that cannot be read."""
        if (index := self.find(name)) is None:
            raise NotFound(f"there is no index {name!r}; the first item that is put into it makes it")
        return index

    def find(self, name: str) -> Index | None:
        """The index, if there is one. Raises as `get` does otherwise."""
        with self._lock:
            return self._find(name)

    def ensure(self, name: str, origin: Origin, dimension: int, weights: int = 0) -> Index:
        """The index, made if there is none, for vectors of a size that ends with so many weights.

        Raises InputError, naming `model`, if it holds vectors of another origin, and as `get` does.
        """
        with self._lock:
            index = self._find(name)
            if index is None:
                try:
                    with new_folder(self._path(name)) as folder:
                        (folder / KIND).write_text(self.kind, encoding="utf-8")
                        kinds.get(self.kind).create(folder, origin, dimension, weights, self.options)
                except (OSError, UsageError) as error:
                    raise EngineError(f"the index {name!r} cannot be made: {error}") from error
                index = self._opened[name] = self._open(name)
        index.origin.check(origin)
        return index

    def remove(self, name: str) -> None:
        """Removes an index, also one that cannot be read. Raises NotFound."""
        path = self._path(name)
        with self._lock:
            if not (path / KIND).is_file():
                raise NotFound(f"there is no index {name!r}")
            try:
                self._find(name)
            except ServiceError as error:
                log.warning("the index %r is removed, though it cannot be opened: %s", name, error)
            if index := self._opened.pop(name, None):
                try:
                    index.discard()
                finally:
                    index.close()
            # It goes at once, by its name; its files take their time.
            with staging(self.folder / REMOVED) as rubbish:
                os.rename(path, rubbish / name)
                sync(self.folder)

    def open_all(self) -> None:
        """Opens all that can be opened, and removes what a process that ended while it removed one has left."""
        for name in self.names():
            try:
                self.get(name)
            except ServiceError as error:
                log.error("%s", error)
        with self._lock:
            for rest in self.folder.glob(f".{REMOVED}.*"):
                shutil.rmtree(rest, ignore_errors=True)

    def close(self) -> None:
        with self._lock:
            for index in self._opened.values():
                index.close()
            self._opened.clear()

    def _path(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise InputError(
                "the name of an index has 1 to 64 of a-z, 0-9, - and _, and starts with none of the last two", "index"
            )
        return self.folder / name

    def _find(self, name: str) -> Index | None:
        path = self._path(name)
        if name not in self._opened and (path / KIND).is_file():
            self._opened[name] = self._open(name)
        return self._opened.get(name)

    def _open(self, name: str) -> Index:
        path = self._path(name)
        return kinds.get((path / KIND).read_text(encoding="utf-8")).open(path, self.options)
