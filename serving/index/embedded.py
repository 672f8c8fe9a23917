"""The default index: a SQLite file on disk, its vectors also in memory, searched exactly. Needs no server.

The file is only read when the index is opened, and to list it. Every write is committed to it, with a sync to the
disk, before it is seen by any search: what was acknowledged survives the end of the process at any moment.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any, Self

import numpy as np
import orjson

from serving.index._rows import Rows
from serving.index.base import Hit, Index, Item, Origin, Query, Stats
from wander.errors import EngineError, InputError, NotFound

FILE = "items.sqlite"
SCHEMA = 1
ON_DISK = np.dtype("<f4")
BUSY_SECONDS = 1.0
"""How long another process may take to let go of the file."""

CREATE = f"""
PRAGMA journal_mode = WAL;
PRAGMA user_version = {SCHEMA};
CREATE TABLE origin (model TEXT, version TEXT, adapter TEXT, sha256 TEXT, dimension INTEGER);
CREATE TABLE item (id TEXT PRIMARY KEY, modality TEXT NOT NULL, vector BLOB NOT NULL, metadata BLOB NOT NULL);
"""
PUT = """
INSERT INTO item VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE
SET modality = excluded.modality, vector = excluded.vector, metadata = excluded.metadata
"""


class Embedded(Index):
    """One connection, which keeps the file locked against other processes: they would not see each other's rows."""

    def __init__(self, connection: sqlite3.Connection, where: str) -> None:
        """Reads everything. Raises EngineError for an index of another schema, and many errors for a damaged one."""
        self._connection = connection
        self._where = where
        self._closed = False
        self._writing = threading.Lock()  # of the file; taken before the other
        self._memory = threading.Lock()
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        if schema != SCHEMA:
            raise EngineError(f"{where} has the schema {schema}; this version reads {SCHEMA}")
        *origin, self.dimension = connection.execute("SELECT * FROM origin").fetchone()
        self.origin = Origin(*origin)
        (count,) = connection.execute("SELECT count(*) FROM item").fetchone()
        self._rows = Rows(self.dimension, count)
        for item in self._read("SELECT * FROM item"):
            self.check(item.vector)
            self._rows.put(item)

    @classmethod
    def create(cls, folder: Path, origin: Origin, dimension: int) -> None:
        connection = sqlite3.connect(folder / FILE)
        try:
            connection.executescript(CREATE)
            with connection:
                connection.execute("INSERT INTO origin VALUES (?, ?, ?, ?, ?)", (*astuple(origin), dimension))
        finally:
            connection.close()

    @classmethod
    def open(cls, folder: Path) -> Self:
        path = folder.resolve() / FILE
        try:
            # Transactions are begun by hand (isolation_level), and threads take turns by a lock (check_same_thread).
            connection = sqlite3.connect(
                f"{path.as_uri()}?mode=rw",
                uri=True,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
        except sqlite3.Error as error:
            raise EngineError(f"the index in {folder.name} cannot be opened: {error}") from error
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA synchronous = FULL")
            # Reading alone would leave the file to others until the first write.
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("COMMIT")
            return cls(connection, f"the index in {folder.name}")
        except (sqlite3.Error, ValueError, TypeError, InputError) as error:
            connection.close()
            raise EngineError(f"the index in {folder.name} is damaged, or open elsewhere: {error}") from error
        except BaseException:
            connection.close()
            raise

    def put(self, items: Sequence[Item]) -> None:
        for item in items:
            self.check(item.vector)
        rows = [(i.id, i.modality, i.vector.astype(ON_DISK).tobytes(), orjson.dumps(i.metadata)) for i in items]
        with self._transaction() as transaction:
            transaction.executemany(PUT, rows)
            transaction.commit()
            with self._memory:
                for item in items:
                    self._rows.put(item)

    def delete(self, id: str) -> bool:
        with self._transaction() as transaction:
            found = transaction.execute("DELETE FROM item WHERE id = ?", (id,)).rowcount == 1
            transaction.commit()
            if found:
                with self._memory:
                    self._rows.remove(id)
            return found

    def get(self, id: str) -> Item | None:
        with self._memory:
            self._check_open()
            return self._rows.get(id)

    def page(self, limit: int, after: str = "") -> list[Item]:
        with self._writing:
            self._check_open()
            return [*self._read("SELECT * FROM item WHERE id > ? ORDER BY id LIMIT ?", after, limit)]

    def search(self, query: Query) -> list[Hit]:
        self.check(query.vector)
        with self._memory:
            self._check_open()
            return self._rows.search(query)

    def stats(self) -> Stats:
        with self._memory:
            return Stats(len(self._rows))

    def close(self) -> None:
        with self._writing, self._memory:
            if not self._closed:
                self._closed = True
                self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction of the file; what the block did not commit is undone."""
        with self._writing:
            self._check_open()
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
            except sqlite3.Error as error:
                raise EngineError(f"{self._where} cannot be written: {error}") from error
            finally:
                with suppress(sqlite3.Error):
                    self._connection.rollback()

    def _read(self, statement: str, *arguments: Any) -> Iterator[Item]:
        for id, modality, vector, metadata in self._connection.execute(statement, arguments):
            array = np.frombuffer(vector, ON_DISK).astype(np.float32)
            yield Item(id, modality, array, orjson.loads(metadata))

    def _check_open(self) -> None:
        if self._closed:
            raise NotFound(f"{self._where} was removed")


plugin = Embedded
