"""What every kind of index offers: vectors of items, found by their inner product with that of a query.

Knows no model, no task and no HTTP: vectors come from outside, with a note of what made them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

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
    """`score` is the inner product of the item's vector with the query."""

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


@dataclass(frozen=True)
class Stats:
    """`recall` is the share of the true hits that an approximate index finds; an exact one finds all."""

    items: int
    mode: Literal["exact", "approximate"] = "exact"
    recall: float | None = None


class Index(ABC):
    """One index. Several threads may call it; a search sees every `put` whole or not at all.

    What `put` and `delete` were given is durable once they return. After `close`, methods raise NotFound.
    """

    origin: Origin
    dimension: int

    @classmethod
    @abstractmethod
    def create(cls, folder: Path, origin: Origin, dimension: int) -> None:
        """Writes an empty index into an empty folder."""

    @classmethod
    @abstractmethod
    def open(cls, folder: Path) -> Self:
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
    def search(self, query: Query) -> list[Hit]:
        """The items with the greatest scores, greatest first; equal ones by id. Raises InputError as `put` does."""

    @abstractmethod
    def stats(self) -> Stats:
        """How many items there are, and how they are searched."""

    @abstractmethod
    def close(self) -> None:
        """Gives the files free. May be called twice."""

    def check(self, vector: Vector) -> None:
        """Raises InputError for a vector of another size, or one so long that scores would be infinite."""
        if vector.shape != (self.dimension,):
            raise InputError(f"the index holds vectors of size {self.dimension}, not of shape {vector.shape}")
        if not float(np.square(vector, dtype=np.float64).sum()) <= float(np.finfo(np.float32).max) / 2:
            raise InputError("the vector has values that are too large, or not finite")
