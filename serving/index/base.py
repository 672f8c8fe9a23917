"""What every kind of index offers: vectors of items, found by their inner product with that of a query.

Knows no model, no task and no HTTP: vectors come from outside, with a note of what made them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from wander.errors import InputError

Vector = NDArray[np.float32]
Scalar = str | int | float | bool | None
Metadata = Mapping[str, Any]
"""A JSON object."""


@dataclass(frozen=True)
class Origin:
    """What made the vectors of an index. Two models with one `sha256` make the same vectors."""

    model: str
    version: str
    adapter: str
    sha256: str

    def check(self, other: Origin) -> None:
        """Raises InputError, naming `model`, unless vectors of the other model can be compared with those from here."""
        if self.sha256 != other.sha256:
            raise InputError(
                f"the index holds vectors of {self} and cannot hold or compare those of {other}; "
                "serve the model that made them, or put the items into a new index",
                "model",
            )

    def __str__(self) -> str:
        return f"model {self.model!r} version {self.version} ({self.sha256[:12]})"


@dataclass(frozen=True)
class Item:
    """`vector` has shape (dimension)."""

    id: str
    modality: str
    vector: Vector
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True)
class Hit:
    """`score` is the inner product of the item's vector with the query; see `Index.weights`."""

    id: str
    score: float
    modality: str
    metadata: Metadata


@dataclass(frozen=True)
class Query:
    """What is looked for.

    Attributes:
        vector: float32 (dimension).
        top_k: the most hits.
        filter: fields of an item's metadata that must be there and equal; a bool equals no number.
        modality: of the items, None for any.
        exclude: ids that are no hits.
    """

    vector: Vector
    top_k: int = 10
    filter: Mapping[str, Scalar] = field(default_factory=dict)
    modality: str | None = None
    exclude: Collection[str] = ()


Mode = Literal["exact", "approximate"]


class Recall(NamedTuple):
    """The share of the true hits, of ten, that an approximate search finds: measured against exact search.

    Attributes:
        value: from 0 to 1.
        of: what was looked for: the last real `queries`, or `items` that are here, which may be easier to find.
    """

    value: float
    of: Literal["queries", "items"]


@dataclass(frozen=True)
class Found:
    """The hits of one search, and how it found them; an exact one misses none and has no `recall`.

    None is also the recall that was not measured.
    """

    hits: list[Hit]
    mode: Mode = "exact"
    recall: Recall | None = None


@dataclass(frozen=True)
class Progress:
    """How far a rebuild is, or how the last one ended.

    Attributes:
        stage: what it does now, in a word; `done` or `failed` once it has ended.
        share: of that stage, from 0 to 1.
        error: why it failed.
    """

    stage: str
    share: float = 0.0
    error: str | None = None

    @property
    def ended(self) -> bool:
        return self.stage in ("done", "failed")


Report = Callable[[str, float], None]
"""Is told the stage and the share of it that is done."""


@dataclass(frozen=True)
class Stats:
    """What an index holds, and how a search without a filter goes.

    Attributes:
        items: that are here.
        deleted: rows that only take space: a rebuild gives it back.
        recall: of an approximate index, if it was measured; an exact one finds all.
        rebuild: the one that goes on, else the last one since the index was opened.
    """

    items: int
    mode: Mode = "exact"
    recall: Recall | None = None
    deleted: int = 0
    rebuild: Progress | None = None


@dataclass(frozen=True)
class IndexOptions:
    """How indexes are searched and kept.

    Attributes:
        exact_mb: size of the vectors up to which search is exact.
        recall: that an approximate search must be measured to have; else search stays exact.
        server: address of the server that holds those of a kind that needs one.
    """

    exact_mb: float = 256.0
    recall: float = 0.95
    server: str | None = None


class Index(ABC):
    """One index. Several threads may call it; a search sees every `put` whole or not at all.

    What `put` and `delete` were given is durable once they return. After `close`, methods raise NotFound.

    Attributes:
        origin: what made the vectors.
        dimension: size of a vector.
        weights: how many of its last numbers are weights. A score is the product of the numbers before them with those
            of the query, over the product of the weights of both; 0 where that is 0. Without weights, a score is the
            product alone.
    """

    origin: Origin
    dimension: int
    weights: int

    @classmethod
    @abstractmethod
    def create(cls, folder: Path, origin: Origin, dimension: int, weights: int, options: IndexOptions) -> None:
        """Writes an empty index into an empty folder. Raises InputError for sizes that this kind cannot hold."""

    @classmethod
    @abstractmethod
    def open(cls, folder: Path, options: IndexOptions) -> Self:
        """The index in a folder. Raises EngineError for one that is damaged, or open elsewhere."""

    @abstractmethod
    def put(self, items: Sequence[Item]) -> None:
        """Adds items, in place of those with the same ids. Raises InputError for a vector that does not fit."""

    @abstractmethod
    def get(self, id: str) -> Item | None:
        """The item, if it is here."""

    @abstractmethod
    def delete(self, id: str) -> bool:
        """Removes an item. Returns whether it was here."""

    @abstractmethod
    def page(self, limit: int, after: str = "") -> list[Item]:
        """At most `limit` items whose ids are greater than `after`, by id."""

    @abstractmethod
    def search(self, query: Query) -> Found:
        """The items with the greatest scores, greatest first; equal ones by id. Raises InputError as `put` does.

        An approximate search may miss some of them, but its scores are exact, what was put is seen at once, and there
        are as many hits as there are items that fit, up to `top_k`.
        """

    @abstractmethod
    def stats(self) -> Stats:
        """How many items there are, and how they are searched."""

    def last_stats(self) -> Stats:
        """What is known of them without asking anyone, and so at once."""
        return self.stats()

    @abstractmethod
    def rebuild(self) -> None:
        """Starts what makes search fast and files small anew, and returns; `stats` tell how far it is.

        Searches and writes go on meanwhile. Does nothing while a rebuild goes on.
        """

    def discard(self) -> None:
        """Removes what is kept outside of the folder. Nothing but `close` comes after it."""
        return

    @abstractmethod
    def close(self) -> None:
        """Gives the files free. May be called twice."""

    def check(self, vector: Vector) -> None:
        """Raises InputError for a vector of another size, or one so long that scores would be infinite."""
        if vector.shape != (self.dimension,):
            raise InputError(f"the index holds vectors of size {self.dimension}, not of shape {vector.shape}")
        if not float(np.square(vector, dtype=np.float64).sum()) <= float(np.finfo(np.float32).max) / 2:
            raise InputError("the vector has values that are too large, or not finite")
