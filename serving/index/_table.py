"""The SQLite file of an index: which row of which vector file belongs to which item. What it says counts.

Every generation of an index has a table and a vector file of its own, called by the same random letters. One is
current; another is one that is being made, or was when a process ended.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple
from pathlib import Path

import orjson

from serving.index.base import Item, Metadata, Origin
from wander.errors import EngineError

FILE = "items.sqlite"
SCHEMA = 2
BUSY_SECONDS = 1.0
"""How long another process may take to let go of the file."""

CREATE = f"""
PRAGMA journal_mode = WAL;
PRAGMA user_version = {SCHEMA};
CREATE TABLE origin (model TEXT, version TEXT, adapter TEXT, sha256 TEXT, dimension INTEGER, weights INTEGER);
CREATE TABLE state (generation TEXT NOT NULL, rows INTEGER NOT NULL);
"""
TABLE = "(row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, modality TEXT NOT NULL, metadata BLOB NOT NULL)"

Entry = tuple[int, str, str, Metadata]
"""Row, id, modality and metadata of an item."""


class Table:
    """One connection, which keeps the file locked against other processes: they would not see each other's rows.

    Not for several threads at once.

    Attributes:
        generation: the current one.
        rows: of its vector file that were given away, for items that are here or were.
    """

    def __init__(self, path: Path) -> None:
        """Raises EngineError for an index of another schema, sqlite3.Error if it is damaged or open elsewhere."""
        self._where = f"the index in {path.parent.name}"
        # Transactions are begun by hand (isolation_level), and threads take turns by a lock (check_same_thread).
        self._connection = sqlite3.connect(
            f"{path.as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            self._execute("PRAGMA locking_mode = EXCLUSIVE")
            self._execute("PRAGMA synchronous = FULL")
            # Reading alone would leave the file to others until the first write.
            self._execute("BEGIN IMMEDIATE")
            self._execute("COMMIT")
            (schema,) = self._execute("PRAGMA user_version").fetchone()
            if schema != SCHEMA:
                raise EngineError(f"{self._where} has the schema {schema}; this version reads {SCHEMA}")
            *origin, self.dimension, self.weights = self._execute("SELECT * FROM origin").fetchone()
            self.origin = Origin(*origin)
            self.generation, self.rows = self._execute("SELECT * FROM state").fetchone()
        except BaseException:
            self._connection.close()
            raise

    @classmethod
    def create(cls, path: Path, origin: Origin, dimension: int, weights: int) -> str:
        """Writes an empty one, and returns its generation."""
        generation = new_generation()
        connection = sqlite3.connect(path)
        try:
            connection.executescript(f"{CREATE} CREATE TABLE item_{generation} {TABLE};")
            with connection:
                connection.execute(
                    "INSERT INTO origin VALUES (?, ?, ?, ?, ?, ?)", (*astuple(origin), dimension, weights)
                )
                connection.execute("INSERT INTO state VALUES (?, 0)", (generation,))
        finally:
            connection.close()
        return generation

    def _execute(self, statement: str, arguments: Sequence[object] = ()) -> sqlite3.Cursor:
        return self._connection.execute(statement, arguments)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What the block does is done when it ends, durably; if it raises, nothing is. Raises EngineError."""
        try:
            self._execute("BEGIN IMMEDIATE")
            yield
            self._execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise EngineError(f"{self._where} cannot be written: {error}") from error
        finally:
            with suppress(sqlite3.Error):
                self._connection.rollback()

    # Items. All but the reading ones are called within a transaction.

    def put(self, first: int, items: Sequence[Item]) -> None:
        """Items whose vectors are in rows from `first` on, in place of those with the same ids."""
        self.insert(self.generation, [(row, i.id, i.modality, i.metadata) for row, i in enumerate(items, first)])
        self._execute("UPDATE state SET rows = ?", (first + len(items),))

    def delete(self, id: str) -> None:
        self._execute(f"DELETE FROM item_{self.generation} WHERE id = ?", (id,))

    def entries(self) -> Iterator[Entry]:
        return self._read(f"SELECT * FROM item_{self.generation}")

    def page(self, limit: int, after: str) -> list[Entry]:
        """Of items whose ids are greater, by id."""
        where = f"SELECT * FROM item_{self.generation} WHERE id > ? ORDER BY id LIMIT ?"
        return list(self._read(where, (after, limit)))

    def _read(self, statement: str, arguments: Sequence[object] = ()) -> Iterator[Entry]:
        for row, id, modality, metadata in self._execute(statement, arguments):
            yield row, id, modality, orjson.loads(metadata)

    # Generations

    def insert(self, generation: str, entries: Iterable[Entry]) -> None:
        self._connection.executemany(
            f"INSERT OR REPLACE INTO item_{generation} VALUES (?, ?, ?, ?)",
            [(row, id, modality, orjson.dumps(metadata)) for row, id, modality, metadata in entries],
        )

    def remove(self, generation: str, rows: Iterable[int]) -> None:
        self._connection.executemany(f"DELETE FROM item_{generation} WHERE row = ?", [(row,) for row in rows])

    def begin(self, generation: str) -> None:
        self._execute(f"CREATE TABLE item_{generation} {TABLE}")

    def switch(self, generation: str, rows: int) -> None:
        """Makes another generation the current one. `follow` must come when the transaction is done."""
        self._execute("UPDATE state SET generation = ?, rows = ?", (generation, rows))

    def follow(self, generation: str) -> None:
        self.generation = generation

    def drop_others(self) -> None:
        """Removes the tables of all generations but the current one."""
        found = self._execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB 'item_*'")
        for (name,) in found.fetchall():
            if name != f"item_{self.generation}":
                self._execute(f"DROP TABLE {name}")

    def close(self) -> None:
        self._connection.close()


def new_generation() -> str:
    return secrets.token_hex(4)
