"""What finds candidates for a search without looking at every row: a cache, made of the vectors and checked by itself.

An inverted file: rows are grouped around centres, and a search looks into the groups that are nearest (`probes`). Rows
are kept as a byte for each of at most `DIRECTIONS` numbers: the directions in which the vectors extend most. Whoever
asks compares the candidates again, exactly. faiss is imported when such a structure is opened, and not before.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.index.base import Recall, Vector
from wander.errors import EngineError, MissingDependency
from wander.files import sha256

GROUPS, AXES, ABOUT = "groups.faiss", "directions.npy", "about.json"
DIRECTIONS = 512
TOP_K = 10
"""Hits of which the recall is measured."""
MOST_HITS = 100
"""A search for more is exact."""
LEAST_CANDIDATES = 128
CANDIDATES_A_HIT = 8


@dataclass(frozen=True)
class About:
    """What was found out when a structure was made.

    Attributes:
        rows: of the vector file that were looked at, the first ones.
        items: of these that were there.
        probes: groups that a search looks into; 0 if no number of them gives the recall that was wanted.
        recall, recall_of: see `Recall`; the best one if it is too low.
        sha256: of the other files, by name.
    """

    rows: int
    items: int
    probes: int
    recall: float
    recall_of: str
    sha256: dict[str, str]

    def write(self, folder: Path) -> None:
        (folder / ABOUT).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> About:
        """Raises EngineError for a folder that is damaged, or incomplete."""
        try:
            about = cls(**json.loads((folder / ABOUT).read_text(encoding="utf-8")))
            for name, expected in about.sha256.items():
                if sha256(folder / name) != expected:
                    raise EngineError(f"{name} was altered")
        except (OSError, ValueError, TypeError) as error:
            raise EngineError(f"it cannot be read: {error}") from error
        return about


class Approximate:
    """The structure in a folder. Raises EngineError for one that is damaged."""

    def __init__(self, folder: Path) -> None:
        about = About.read(folder)
        self.rows = about.rows
        self.items = about.items
        self.probes = about.probes
        self.recall = Recall(about.recall, "queries" if about.recall_of == "queries" else "items")
        self._groups = faiss().read_index(str(folder / GROUPS)) if about.probes else None
        self._axes = np.load(folder / AXES, allow_pickle=False) if AXES in about.sha256 else None

    @property
    def useful(self) -> bool:
        """Whether it finds what it should. If not, it only says that search has to be exact."""
        return self._groups is not None

    def candidates(self, vector: Vector, allowed: NDArray[np.bool_], top_k: int) -> NDArray[np.int64]:
        """Rows among those allowed (the first `rows` count) that are likely hits, more than were asked for."""
        query = vector if self._axes is None else self._axes @ vector
        return candidates(self._groups, query[None], candidates_for(top_k), self.probes, allowed[: self.rows])[0]


def candidates(
    groups: Any, queries: NDArray[np.float32], count: int, probes: int, allowed: NDArray[np.bool_]
) -> list[NDArray[np.int64]]:
    """For each query (Q, directions): at most `count` rows that are allowed."""
    library = faiss()
    library.omp_set_num_threads(1)  # of this thread: several searches go at once as it is
    bits = np.packbits(allowed, bitorder="little")  # kept here while faiss reads them
    selector = library.IDSelectorBitmap(bits)
    parameters = library.SearchParametersIVF(sel=selector, nprobe=probes)
    _, found = groups.search(np.ascontiguousarray(queries, np.float32), count, params=parameters)
    return [rows[rows >= 0] for rows in found]


def candidates_for(top_k: int) -> int:
    return max(LEAST_CANDIDATES, CANDIDATES_A_HIT * top_k)


def faiss() -> Any:
    """The library. Raises MissingDependency."""
    try:
        import faiss as library
    except ImportError as error:
        raise MissingDependency("approximate search needs faiss: pip install faiss-cpu") from error
    return library
