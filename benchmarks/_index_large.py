"""A large index, in this process: how long it takes to fill, build and open, and how fast and well it finds."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.index import Index, Indexes, IndexOptions, Item, Origin, Query

Matrix = NDArray[np.float32]

NAME = "large"
ORIGIN = Origin("benchmark", "1", "none", "0" * 64)
GROUP = 1000
"""Items of one write."""
CLUSTERS, LATENT, SPREAD, NOISE = 20_000, 64, 1.0, 0.3
RECIPE = (
    f"{CLUSTERS:,} centres drawn from a normal distribution of {LATENT} dimensions; a vector is a centre plus {SPREAD} "
    f"times normal noise there, mapped into all dimensions by a fixed random matrix, plus {NOISE} times normal noise "
    "in all of them, scaled to the length √7. Queries are drawn alike, and are not in the index"
)
ANSWERS = "answers.json"
QUERIES = 500
COMPARED = 200
"""Queries whose true hits are known."""
EXACT = 5
"""Exact searches that are timed."""
TOP_K = 10
NEVER = IndexOptions(exact_mb=1e9)
USUAL = IndexOptions()


class Clustered:
    """The recipe: the same vectors every time."""

    def __init__(self, dimension: int) -> None:
        random = np.random.default_rng(0)
        self.centres = random.standard_normal((CLUSTERS, LATENT), np.float32)
        self.axes = random.standard_normal((LATENT, dimension), np.float32) / np.float32(LATENT**0.5)

    def draw(self, count: int, seed: int) -> Matrix:
        random = np.random.default_rng([1, seed])
        latent = self.centres[random.integers(0, CLUSTERS, count)]
        latent = latent + np.float32(SPREAD) * random.standard_normal(latent.shape, np.float32)
        vectors: Matrix = latent @ self.axes
        vectors += np.float32(NOISE) * random.standard_normal(vectors.shape, np.float32)
        vectors *= np.float32(7**0.5) / np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors


def fill(folder: Path, items: int, dimension: int, step: Callable[[str], None]) -> dict[str, Any]:
    """Puts what is not there yet; the seconds are those of the writes alone, and of as many items."""
    made = Clustered(dimension)
    indexes = Indexes(folder, options=NEVER)
    index = indexes.ensure(NAME, ORIGIN, dimension)
    seconds, before = 0.0, index.stats().items
    for start in range(before, items, GROUP):
        vectors = made.draw(GROUP, start)
        group = [Item(f"{start + i:08}", "video", vectors[i], {"number": start + i}) for i in range(GROUP)]
        started = time.monotonic()
        index.put(group)
        seconds += time.monotonic() - started
        if start % 50_000 == 0:
            step(f"{start:,} items are there")
    indexes.close()
    found = {"items": items, "dimension": dimension, "recipe": RECIPE, "bytes_an_item": on_disk(folder) / items}
    return {**found, "filled": items - before, "fill_s": seconds} if before < items else found


def build(folder: Path, options: IndexOptions = USUAL) -> dict[str, Any]:
    """Makes the structure, as a server does when it opens an index that is large and has none."""
    for old in (folder / NAME).glob("approximate.*"):
        shutil.rmtree(old)
    indexes = Indexes(folder, options=options)
    started = time.monotonic()
    index = indexes.get(NAME)
    stages: dict[str, float] = {}
    while (progress := index.stats().rebuild) is not None and not progress.ended:
        stages.setdefault(progress.stage, time.monotonic() - started)
        time.sleep(0.05)
    seconds = time.monotonic() - started
    stats = index.stats()
    indexes.close()
    assert stats.mode == "approximate", stats
    return {
        "build_s": seconds,
        "build_stages_begin_s": stages,
        "recall_told": stats.recall,
        "bytes_an_item_with_structure": on_disk(folder) / stats.items,
    }


def search(folder: Path, dimension: int, step: Callable[[str], None], options: IndexOptions = USUAL) -> dict[str, Any]:
    """Opens it with no file in the cache, and searches. What was found is kept for `compare`."""
    queries = Clustered(dimension).draw(QUERIES, 1 << 40)
    evict(folder)
    indexes = Indexes(folder, options=options)
    started = time.monotonic()
    index = indexes.get(NAME)
    found: dict[str, Any] = {"cold_open_s": time.monotonic() - started}
    while index.stats().mode == "exact":
        time.sleep(0.005)
    found["cold_open_to_approximate_s"] = time.monotonic() - started
    found["approximate_cold"] = percentiles(timed(index, queries))
    found["approximate"] = percentiles(timed(index, queries))
    answers = [index.search(Query(query, TOP_K)) for query in queries[:COMPARED]]
    found["approximate_share"] = sum(answer.mode == "approximate" for answer in answers) / COMPARED
    found["anonymous_mb"] = anonymous() / 1e6
    step("approximate searches are done")
    indexes.close()
    kept = [[int(hit.id) for hit in answer.hits] for answer in answers]
    (folder / ANSWERS).write_text(json.dumps(kept), encoding="utf-8")
    indexes = Indexes(folder, options=NEVER)
    index = indexes.get(NAME)
    found["exact"] = percentiles(timed(index, queries[:EXACT]))
    step("exact searches are done")
    indexes.close()
    return found


def compare(folder: Path, items: int, dimension: int) -> dict[str, Any]:
    """The recall of what `search` found."""
    made = Clustered(dimension)
    true = best(made, made.draw(QUERIES, 1 << 40), items)
    answers = json.loads((folder / ANSWERS).read_text(encoding="utf-8"))
    shares = [len(set(a) & set(t)) / TOP_K for a, t in zip(answers, true, strict=True)]
    return {"recall_at_10": float(np.mean(shares)), "compared": COMPARED}


def best(made: Clustered, queries: Matrix, items: int) -> list[list[int]]:
    """Numbers of the true hits of the first queries, computed from the recipe and not from the index."""
    asked = queries[:COMPARED]
    scores, numbers = np.zeros((COMPARED, 0), np.float32), np.zeros((COMPARED, 0), np.int64)
    for start in range(0, items, GROUP):
        scores = np.concatenate([scores, asked @ made.draw(GROUP, start).T], 1)
        numbers = np.concatenate([numbers, np.broadcast_to(start + np.arange(GROUP), (COMPARED, GROUP))], 1)
        kept = np.argpartition(-scores, TOP_K - 1, 1)[:, :TOP_K]
        scores, numbers = np.take_along_axis(scores, kept, 1), np.take_along_axis(numbers, kept, 1)
    return [row.tolist() for row in numbers]


def timed(index: Index, queries: Matrix) -> list[float]:
    seconds = []
    for query in queries:
        started = time.perf_counter()
        index.search(Query(query, TOP_K))
        seconds.append(time.perf_counter() - started)
    return seconds


def percentiles(seconds: list[float]) -> dict[str, float]:
    p50, p99 = np.quantile(seconds, (0.5, 0.99)).tolist()
    return {"p50_ms": 1000 * p50, "p99_ms": 1000 * p99, "searches": len(seconds)}


def files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def on_disk(folder: Path) -> int:
    """Bytes that the files take: what was never written takes none."""
    return sum(path.stat().st_blocks * 512 for path in files(folder))


def evict(folder: Path) -> None:
    """Takes the files out of the cache of the system, and no others."""
    for path in files(folder):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def anonymous() -> int:
    """Bytes of memory of this process that are no file's."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status does not tell RssAnon")
