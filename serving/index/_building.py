"""Makes an `Approximate` of the rows of a vector file, in a process that can be ended and takes half the cores.

    python -m serving.index._building FOLDER

`FOLDER` holds the `Job`; what is made goes into it. A line of JSON on stdout for every step: [stage, share]. It ends by
itself when nobody reads them any more.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serving.cores import usable_cores
from serving.index._approximate import (
    AXES,
    DIRECTIONS,
    GROUPS,
    TOP_K,
    About,
    candidates,
    candidates_for,
    faiss,
)
from serving.index._vectors import ON_DISK
from serving.index.base import Report, Vector
from wander.errors import EngineError
from wander.files import sha256

JOB, LIVE, QUERIES, LOG = "job.json", "live.npy", "queries.npy", "log.txt"
SAMPLE_BYTES = 128 << 20
"""Of vectors from which the directions are learnt."""
PIECE_BYTES = 32 << 20
"""Of vectors that are in memory at once."""
ROWS_A_GROUP = 64
"""Rows from which a centre is learnt."""
ROUNDS = 10
"""Of finding the centres."""
MEASURED = 100
"""Items that are looked for where there were too few queries."""
MOST_READ = 1 / 16
"""Share of the bytes of an exact search that candidates may cost; reading more would not be worth the loss."""

PATIENCE_S = 0.2

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Job:
    """Attributes: vectors: path of the file. rows: of it that count, where they are live. recall: that is wanted."""

    vectors: str
    dimension: int
    rows: int
    recall: float

    def run(self, folder: Path, live: NDArray[np.bool_], queries: list[Vector], report: Report) -> None:
        """Runs the process to its end. Raises EngineError if it fails, and what `report` raises, which ends it."""
        (folder / JOB).write_text(json.dumps(asdict(self)), encoding="utf-8")
        np.save(folder / LIVE, live, allow_pickle=False)
        asked = np.array(queries, np.float32).reshape(len(queries), self.dimension)
        np.save(folder / QUERIES, asked, allow_pickle=False)
        threads = str(max(1, usable_cores() // 2))
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        command = [sys.executable, "-m", __name__, str(folder)]
        with (folder / LOG).open("wb") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment)
        with process:
            try:
                for stage, share in _told(process):
                    report(stage, share)
            except BaseException:
                process.kill()
                raise
        status = process.returncode
        if status != 0:
            said = (folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise EngineError(f"building failed with status {status}: {said[-1] if said else 'it said nothing'}")


def _told(process: subprocess.Popen[bytes]) -> Iterator[tuple[str, float]]:
    """What the process says, the last of it again and again while it says nothing."""
    assert process.stdout is not None
    last, rest = ("starting", 0.0), b""
    while True:
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE_S)
        if ready:
            if not (read := os.read(process.stdout.fileno(), 65_536)):
                return
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                stage, share = json.loads(line)
                last = (stage, share)
        yield last


class Building:
    """One run in the process itself."""

    def __init__(self, folder: Path, job: Job) -> None:
        self.folder = folder
        self.job = job
        shape = (job.rows, job.dimension)
        self.vectors: Matrix = np.asarray(np.memmap(job.vectors, ON_DISK, "r", shape=shape))
        self.live: NDArray[np.bool_] = np.load(folder / LIVE, allow_pickle=False)
        self.rows = np.flatnonzero(self.live)
        self.random = np.random.default_rng(0)
        self.axes: Matrix | None = None

    def __call__(self) -> None:
        say("learning", 0.0)
        self.axes = self.directions()
        groups = self.groups()
        probes, recall, of = self.measure(groups)
        faiss().write_index(groups, str(self.folder / GROUPS))
        names = [GROUPS]
        if self.axes is not None:
            np.save(self.folder / AXES, self.axes, allow_pickle=False)
            names.append(AXES)
        about = {name: sha256(self.folder / name) for name in names}
        About(self.job.rows, len(self.rows), probes, recall, of, about).write(self.folder)

    def sample(self, most: int) -> NDArray[np.int64]:
        if len(self.rows) <= most:
            return self.rows
        return np.sort(self.random.choice(self.rows, most, replace=False))

    def pieces(self, rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Matrix]]:
        size = max(1, PIECE_BYTES // (4 * self.job.dimension))
        for start in range(0, len(rows), size):
            piece = rows[start : start + size]
            yield piece, self.vectors[piece]

    def projected(self, vectors: Matrix) -> Matrix:
        return vectors if self.axes is None else vectors @ self.axes.T

    def directions(self) -> Matrix | None:
        """Orthonormal (DIRECTIONS, D), or None for vectors that are short as they are.

        They are those of the largest second moments, not of the largest variances: products are to be kept.
        """
        size = self.job.dimension
        if size <= DIRECTIONS:
            return None
        moments = np.zeros((size, size), np.float32)
        for _, vectors in self.pieces(self.sample(SAMPLE_BYTES // (4 * size))):
            moments += vectors.T @ vectors
        _, axes = np.linalg.eigh(moments)
        return np.ascontiguousarray(axes[:, : -DIRECTIONS - 1 : -1].T)

    def groups(self) -> Any:
        library = faiss()
        count = max(1, min(int(4 * len(self.rows) ** 0.5), len(self.rows) // ROWS_A_GROUP))
        known = np.concatenate([self.projected(v) for _, v in self.pieces(self.sample(ROWS_A_GROUP * count))])
        centres: Matrix | None = None
        for turn in range(ROUNDS):
            say("learning", turn / ROUNDS)
            means = library.Kmeans(known.shape[1], count, niter=1, seed=0, min_points_per_centroid=1)
            means.train(known, init_centroids=centres)
            centres = means.centroids
        quantizer = library.IndexFlatIP(known.shape[1])
        quantizer.add(centres)
        product = library.METRIC_INNER_PRODUCT
        kind = library.ScalarQuantizer.QT_8bit
        groups = library.IndexIVFScalarQuantizer(quantizer, known.shape[1], count, kind, product)
        groups.train(known)
        done = 0
        for rows, vectors in self.pieces(self.rows):
            say("adding", done / len(self.rows))
            groups.add_with_ids(np.ascontiguousarray(self.projected(vectors)), rows)
            done += len(rows)
        return groups

    # Measuring

    def measure(self, groups: Any) -> tuple[int, float, Literal["queries", "items"]]:
        """The fewest groups to look into (0 if there is no such number), the recall, and what was looked for."""
        queries: Matrix = np.load(self.folder / QUERIES, allow_pickle=False)
        of: Literal["queries", "items"] = "queries" if len(queries) else "items"
        asked = self.sample(MEASURED) if of == "items" else np.zeros(0, np.int64)
        if of == "items":
            queries = self.vectors[asked]
        count = min(TOP_K, len(self.rows) - len(asked[:1]))
        true = self.exact(queries, asked, count)
        short = self.projected(queries)
        share = MOST_READ * 4 * self.job.dimension / short.shape[1]
        most = max(1, int(min(share, 1) * groups.nlist))
        probes, best = 1, 0.0
        while True:
            found = candidates(groups, short, candidates_for(count) + 1, probes, self.live)
            hits = 0
            for number, rows in enumerate(found):
                rows = rows[rows != asked[number]] if of == "items" else rows
                near = rows[np.argsort(-(self.vectors[rows] @ queries[number]), kind="stable")[:count]]
                hits += len(np.intersect1d(near, true[number]))
            best = max(best, hits / (count * len(queries)))
            if best >= self.job.recall:
                return probes, best, of
            if probes >= most:
                return 0, best, of
            probes = min(2 * probes, most)

    def exact(self, queries: Matrix, asked: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """The true hits of each query (Q, count); an item is none of its own."""
        best = np.full((len(queries), count), -np.inf, np.float32)
        where = np.full((len(queries), count), -1, np.int64)
        done = 0
        for rows, vectors in self.pieces(self.rows):
            say("measuring", done / len(self.rows))
            products = queries @ vectors.T
            if len(asked):
                products[asked[:, None] == rows[None]] = -np.inf
            both = np.concatenate([best, products], 1)
            ids = np.concatenate([where, np.broadcast_to(rows, products.shape)], 1)
            kept = np.argpartition(-both, count - 1, 1)[:, :count]
            best, where = np.take_along_axis(both, kept, 1), np.take_along_axis(ids, kept, 1)
            done += len(rows)
        return where


def say(stage: str, share: float) -> None:
    sys.stdout.write(json.dumps([stage, round(share, 4)]) + "\n")
    sys.stdout.flush()


def main(folder: Path) -> None:
    os.nice(10)
    threads = max(1, usable_cores() // 2)
    faiss().omp_set_num_threads(threads)
    Building(folder, Job(**json.loads((folder / JOB).read_text(encoding="utf-8"))))()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
