"""The default index: SQLite and a file of vectors, on disk. Needs no server.

Every write is on the disk before it is seen by any search: the vectors first, in rows that nobody knows of, then the
table that makes them known. What was acknowledged survives the end of the process at any moment.

A search looks at all vectors, unless they are many: then at candidates of a structure that is made in the background
(`Approximate`), and at all rows that are newer than it.
"""

from __future__ import annotations

import logging
import re
import shutil
import sqlite3
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from serving.index._approximate import MOST_HITS, Approximate
from serving.index._building import Job
from serving.index._compaction import Compaction, vector_path
from serving.index._rows import Rows, View
from serving.index._table import FILE, Table
from serving.index._upkeep import Upkeep
from serving.index._vectors import VectorFile
from serving.index.base import Found, Index, IndexOptions, Item, Origin, Query, Report, Stats, Vector
from wander.errors import EngineError, NotFound
from wander.files import flush, staging, sync

log = logging.getLogger(__name__)

LEAST_ITEMS = 1000
"""Fewer are searched exactly whatever their size."""
NEWER = 0.5
"""Rows that are newer than the structure, as a share of those in it, that are too many."""
LEAST_DEAD = 10_000
"""Dead rows that are worth a new file, if there are as many as live ones."""
QUERIES = 100
"""The last ones, of which the recall is measured, once there are so many."""
OURS = re.compile(r"(vectors|approximate)\.([0-9a-f]{8})\b.*|\.approximate\..*")


class Embedded(Index):
    def __init__(self, folder: Path, table: Table, options: IndexOptions) -> None:
        """Reads the table. Raises EngineError, and many errors for a damaged file."""
        self._folder = folder
        self._table = table
        self._options = options
        self._where = f"the index in {folder.name}"
        self._closed = False
        self._writing = threading.Lock()  # of the files; taken before the other
        self._memory = threading.Lock()
        self._asked: deque[Vector] = deque(maxlen=QUERIES)
        self._approximate: Approximate | None = None
        self._upkeep = Upkeep(self._where)
        self._tried = 0
        self.origin, self.dimension, self.weights = table.origin, table.dimension, table.weights
        self._tidy()
        path = vector_path(folder, table.generation)
        if not path.exists():
            raise EngineError(f"{self._where} is damaged: {path.name} is missing")
        self._rows = Rows(VectorFile(path, table.dimension, table.rows), table.weights, table.rows)
        for entry in table.entries():
            self._rows.fill(*entry)

    @classmethod
    def create(cls, folder: Path, origin: Origin, dimension: int, weights: int, options: IndexOptions) -> None:
        generation = Table.create(folder / FILE, origin, dimension, weights)
        VectorFile(vector_path(folder, generation), dimension).close()

    @classmethod
    def open(cls, folder: Path, options: IndexOptions) -> Self:
        folder = folder.resolve()
        try:
            table = Table(folder / FILE)
            try:
                index = cls(folder, table, options)
            except BaseException:
                table.close()
                raise
        except (sqlite3.Error, OSError, ValueError, TypeError, IndexError) as error:
            raise EngineError(f"the index in {folder.name} is damaged, or open elsewhere: {error}") from error
        index._look()
        return index

    # Items

    def put(self, items: Sequence[Item]) -> None:
        for item in items:
            self.check(item.vector)
        if not items:
            return
        with self._writing:
            self._check_open()
            first = self._rows.count
            with self._table.transaction():
                self._rows.vectors.write(first, np.stack([item.vector for item in items]))
                self._table.put(first, items)
            with self._memory:
                self._rows.append(items)
        self._look()

    def delete(self, id: str) -> bool:
        with self._writing:
            self._check_open()
            if self._rows.get(id) is None:
                return False
            with self._table.transaction():
                self._table.delete(id)
            with self._memory:
                self._rows.remove(id)
        self._look()
        return True

    def get(self, id: str) -> Item | None:
        with self._memory:
            self._check_open()
            return self._rows.get(id)

    def page(self, limit: int, after: str = "") -> list[Item]:
        with self._writing:
            self._check_open()
            vectors = self._rows.vectors.view(self._rows.count)
            found = self._table.page(limit, after)
            return [Item(id, modality, vectors[row].copy(), metadata) for row, id, modality, metadata in found]

    # Search

    def search(self, query: Query) -> Found:
        self.check(query.vector)
        with self._memory:
            self._check_open()
            view, approximate = self._rows.view(query), self._approximate
            if not query.exclude:
                self._asked.append(query.vector)
        if approximate is not None and approximate.useful and query.top_k <= MOST_HITS:
            found = self._search_some(view, approximate, query)
            if found is not None:
                return found
        return Found(view.search(query))

    def _search_some(self, view: View, approximate: Approximate, query: Query) -> Found | None:
        """None if an exact search has to do it, because what is looked for is rare."""
        known = view.passing(approximate.candidates(query.vector, view.allowed, query.top_k), query)
        if len(known) < query.top_k:
            return None
        newer = approximate.rows + np.flatnonzero(view.allowed[approximate.rows :])
        hits = view.rank(np.concatenate([known, view.passing(newer, query)]), query)
        return Found(hits, "approximate", approximate.recall)

    def stats(self) -> Stats:
        with self._memory:
            count, dead, approximate = len(self._rows), self._rows.dead, self._approximate
        if approximate is None or not approximate.useful:
            return Stats(count, deleted=dead, rebuild=self._upkeep.progress)
        return Stats(count, "approximate", approximate.recall, dead, self._upkeep.progress)

    # Upkeep

    def rebuild(self) -> None:
        self._check_open()
        self._upkeep.start(lambda report: self._rebuild(report, whole=True))

    def _look(self) -> None:
        """Starts what is due; what failed is tried again when there is more."""
        if self._upkeep.busy or not (self._too_old() or self._too_sparse()):
            return
        if not self._upkeep.failed or self._rows.count > (1 + NEWER) * self._tried:
            self._tried = self._rows.count
            self._upkeep.start(lambda report: self._rebuild(report, whole=False))

    def _too_old(self) -> bool:
        """Whether search would gain from a structure, or from a newer one."""
        made = self._approximate
        if not self._large(len(self._rows)):
            return False
        return made is None or self._rows.count - made.rows > NEWER * made.items

    def _large(self, items: int) -> bool:
        """Whether so many are searched approximately."""
        size = items * self.dimension * 4
        return size > self._options.exact_mb * 1e6 and items >= LEAST_ITEMS and not self.weights

    def _too_sparse(self) -> bool:
        return self._rows.dead > max(LEAST_DEAD, len(self._rows))

    def _rebuild(self, report: Report, whole: bool) -> None:
        """Whatever is due; or all of it."""
        if not whole and self._approximate is None and self._load(report) and not self._too_old():
            return
        if (whole and self._rows.dead) or self._too_sparse():
            self._compact(report)
        elif whole or self._too_old():
            made = self._build(report, self._rows, self._table.generation)
            with self._memory:
                self._approximate = made
        self._tidy()

    def _compact(self, report: Report) -> None:
        with self._writing:
            compaction = Compaction(self._table, self._rows, self._folder)
        try:
            self._copy(compaction, report)
            made = self._build(report, compaction.rows, compaction.generation)
            self._copy(compaction, report)
            sync(self._folder)
            with self._writing:
                compaction.finish()
                with self._memory:
                    old, self._rows, self._approximate = self._rows, compaction.rows, made
                    old.vectors.close()
                with self._table.transaction():
                    self._table.drop_others()
        except BaseException:
            with self._writing:
                if self._rows is not compaction.rows:
                    compaction.abandon()
            raise

    def _copy(self, compaction: Compaction, report: Report) -> None:
        while compaction.left:
            report("copying", compaction.copied / compaction.old.count)
            with self._writing:
                compaction.step()

    def _build(self, report: Report, rows: Rows, generation: str) -> Approximate | None:
        """A structure for these rows, on the disk beside them; None where search is exact."""
        with self._memory:
            count, live, asked = rows.count, rows.live[: rows.count].copy(), list(self._asked)
        if not self._large(int(live.sum())):
            return None
        job = Job(str(rows.vectors.path), self.dimension, count, self._options.recall)
        target = self._folder / f"approximate.{generation}.{count}"
        shutil.rmtree(target, ignore_errors=True)
        with staging(target) as folder:
            job.run(folder, live, asked if len(asked) == QUERIES else [], report)
            flush(folder)
            folder.rename(target)
        sync(self._folder)
        made = Approximate(target)
        if not made.useful:
            log.warning(
                "%s stays exact: approximate search finds only %.3f of the hits", self._where, made.recall.value
            )
        return made

    def _load(self, report: Report) -> bool:
        """Opens the newest structure for these rows that is on the disk, if there is one."""
        report("opening", 0.0)
        found = self._folder.glob(f"approximate.{self._table.generation}.*")
        for path in sorted(found, key=lambda path: int(path.suffix[1:]), reverse=True):
            try:
                made = Approximate(path)
            except (EngineError, RuntimeError) as error:
                log.warning("%s is made anew, in %s: %s", path.name, self._folder.name, error)
                continue
            if made.rows <= self._rows.count:
                with self._memory:
                    self._approximate = made
                return True
        return False

    def _tidy(self) -> None:
        """Removes what belongs to no generation, or is older than the structure in use."""
        with self._writing, self._table.transaction():
            self._table.drop_others()
            current = self._table.generation
        newest = self._approximate.rows if self._approximate is not None else None
        for path in self._folder.iterdir():
            ours = OURS.fullmatch(path.name)
            if not ours or (ours[2] == current and (ours[1] == "vectors" or newest is None)):
                continue
            if ours[2] != current or path.name != f"approximate.{current}.{newest}":
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()

    def close(self) -> None:
        self._upkeep.stop()
        with self._writing, self._memory:
            if not self._closed:
                self._closed = True
                self._table.close()
                self._rows.vectors.close()

    def _check_open(self) -> None:
        if self._closed:
            raise NotFound(f"{self._where} was removed")


plugin = Embedded
