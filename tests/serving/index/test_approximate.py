"""Approximate search and rebuilds: what is found, what never is, and what goes on meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.index import Index, Indexes, IndexOptions, Item, Origin, Query
from serving.index._approximate import ABOUT, GROUPS, MOST_HITS, Approximate
from serving.index._building import QUERIES as QUERIES_FILE
from serving.index._building import Building, Job
from serving.index.embedded import QUERIES, Embedded
from wander.errors import EngineError, NotFound

pytest.importorskip("faiss", reason="approximate search needs faiss-cpu")

ORIGIN = Origin("towers", "1", "mwa", "a" * 64)
DIMENSION, ITEMS, CLUSTERS = 32, 4000, 40
SMALL = IndexOptions(exact_mb=0.01)
"""Of which every index in these tests is too large to be searched exactly."""


def drawn(count: int, seed: int) -> Any:
    """Vectors around centres that are the same every time."""
    centres = np.random.default_rng(0).normal(size=(CLUSTERS, DIMENSION))
    random = np.random.default_rng([1, seed])
    return (centres[random.integers(0, CLUSTERS, count)] + 0.5 * random.normal(size=(count, DIMENSION))).astype("f4")


def item(number: int, vector: Any) -> Item:
    return Item(f"{number:05}", "text" if number % 2 else "image", vector, {"tenth": number % 10, "number": number})


def settled(index: Index, seconds: float = 60) -> Index:
    """When nothing goes on any more."""
    until = time.monotonic() + seconds
    while (progress := index.stats().rebuild) is not None and not progress.ended:
        assert time.monotonic() < until, progress
        time.sleep(0.01)
    return index


def filled(folder: Path, options: IndexOptions = SMALL) -> tuple[Indexes, Embedded]:
    """An index that has its structure: it is written before anything is due."""
    before = Indexes(folder)
    before.ensure("many", ORIGIN, DIMENSION).put([item(n, v) for n, v in enumerate(drawn(ITEMS, 0))])
    before.close()
    indexes = Indexes(folder, options=options)
    index = indexes.get("many")
    assert isinstance(index, Embedded)
    settled(index)
    return indexes, index


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """An index that no test changes."""
    indexes, index = filled(tmp_path_factory.mktemp("many"))
    yield index
    indexes.close()


def exact(index: Embedded, query: Query) -> list[str]:
    with index._memory:
        view = index._rows.view(query)
    return [hit.id for hit in view.search(query)]


def test_it_finds_what_it_says_it_finds(many: Embedded) -> None:
    stats = many.stats()
    assert stats.mode == "approximate"
    assert stats.recall is not None
    assert stats.recall.value >= SMALL.recall
    assert stats.recall.of == "items"
    shares = []
    for query in drawn(100, 1):
        found = many.search(Query(query))
        assert (found.mode, found.recall) == ("approximate", stats.recall)
        assert [hit.score for hit in found.hits] == sorted((hit.score for hit in found.hits), reverse=True)
        shares.append(len({hit.id for hit in found.hits} & set(exact(many, Query(query)))) / 10)
    assert np.mean(shares) > stats.recall.value - 0.1


def test_scores_are_exact(many: Embedded) -> None:
    query = drawn(1, 2)[0]
    for hit in many.search(Query(query)).hits:
        kept = many.get(hit.id)
        assert kept is not None
        assert hit.score == pytest.approx(float(kept.vector.astype(np.float64) @ query), rel=1e-5)


@pytest.mark.parametrize("top_k", [1, 10, MOST_HITS, MOST_HITS + 1, 1000, ITEMS + 1])
def test_as_many_hits_as_were_asked_for(many: Embedded, top_k: int) -> None:
    found = many.search(Query(drawn(1, 3)[0], top_k))
    assert len({hit.id for hit in found.hits}) == len(found.hits) == min(top_k, ITEMS)
    assert top_k <= MOST_HITS or found.mode == "exact"


@pytest.mark.parametrize("wanted", [{}, {"tenth": 3}, {"number": 1234}, {"number": -1}, {"tenth": 3, "number": 13}])
@pytest.mark.parametrize("modality", [None, "image", "text", "smell"])
def test_filters_lose_no_hit(many: Embedded, wanted: dict[str, Any], modality: str | None) -> None:
    query = Query(drawn(1, 4)[0], 10, wanted, modality)
    found = many.search(query)
    best = exact(many, query)
    assert len(found.hits) == len(best)
    for hit in found.hits:
        assert modality in (None, hit.modality)
        assert wanted.items() <= dict(hit.metadata).items()
    if found.mode == "exact":
        assert [hit.id for hit in found.hits] == best
    else:
        assert len({hit.id for hit in found.hits} & set(best)) >= 5


def test_excluded_items_are_no_hits(many: Embedded) -> None:
    query = drawn(1, 5)[0]
    first = [hit.id for hit in many.search(Query(query, 20)).hits]
    second = many.search(Query(query, 20, exclude=first[:15]))
    assert second.mode == "approximate"
    assert [hit.id for hit in second.hits][:5] == first[15:]


def test_changes_are_seen_at_once(tmp_path: Path) -> None:
    indexes, index = filled(tmp_path)
    query = drawn(1, 6)[0]
    best = index.search(Query(query)).hits
    assert index.delete(best[0].id)
    index.put([item(int(best[1].id), -query)])
    index.put([item(ITEMS, 2 * query), item(ITEMS + 1, 3 * query)])
    found = index.search(Query(query))
    assert found.mode == "approximate"
    ids = [hit.id for hit in found.hits]
    assert ids[:2] == [f"{ITEMS + 1:05}", f"{ITEMS:05}"]
    assert not {best[0].id, best[1].id} & set(ids)
    index.put([item(ITEMS, -query)])
    assert index.search(Query(query)).hits[1].id != f"{ITEMS:05}"
    indexes.close()


def test_recall_is_that_of_real_queries_if_there_were_enough(tmp_path: Path) -> None:
    indexes, index = filled(tmp_path)
    for query in drawn(QUERIES, 7):
        index.search(Query(query))
    index.rebuild()
    recall = settled(index).stats().recall
    assert recall is not None
    assert recall.of == "queries"
    indexes.close()


def test_search_stays_exact_where_too_little_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is near in noise of many dimensions, and no structure helps."""
    vectors = np.random.default_rng(0).normal(size=(3000, 500)).astype(np.float32)
    indexes = Indexes(tmp_path, options=IndexOptions(exact_mb=0.01, recall=1.0))
    index = indexes.ensure("noise", ORIGIN, 500)
    index.put([item(n, v) for n, v in enumerate(vectors)])
    assert settled(index).stats().mode == "exact"
    assert index.search(Query(vectors[0])).mode == "exact"
    assert "stays exact" in caplog.text
    indexes.close()


@pytest.mark.parametrize("damage", ["cut", "altered", "absent", "newer", "no"])
def test_structure_is_a_cache(tmp_path: Path, damage: str) -> None:
    indexes, index = filled(tmp_path)
    recall = index.stats().recall
    indexes.close()
    (folder,) = (tmp_path / "many").glob("approximate.*")
    groups = folder / GROUPS
    whole = groups.read_bytes()
    made = groups.stat().st_mtime_ns
    match damage:
        case "cut":
            groups.write_bytes(whole[:1000])
        case "altered":
            groups.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        case "absent":
            (folder / ABOUT).unlink()
        case "newer":  # than what is in the table
            folder.rename(folder.with_suffix(".9000"))
            about = folder.with_suffix(".9000") / ABOUT
            about.write_text(about.read_text().replace(f'"rows": {ITEMS}', '"rows": 9000'))
    indexes = Indexes(tmp_path, options=SMALL)
    index = settled(indexes.get("many"))  # type: ignore[assignment]
    assert index.stats().mode == "approximate"
    assert index.stats().recall == recall
    (folder,) = (tmp_path / "many").glob("approximate.*")
    assert ((folder / GROUPS).stat().st_mtime_ns == made) == (damage == "no")
    indexes.close()


def test_nothing_of_faiss_before_it_is_needed(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from serving.index import *\n"
        "index = Indexes(Path(sys.argv[1])).ensure('a', Origin('m', '1', 'a', 'f' * 64), 2)\n"
        "index.put([Item('a', 'text', np.ones(2, np.float32))]); index.search(Query(np.ones(2, np.float32)))\n"
        "index.rebuild(); index.close(); assert 'faiss' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True)


# Rebuilds


def test_rebuild_frees_what_was_deleted(tmp_path: Path) -> None:
    indexes, index = filled(tmp_path)
    vectors = drawn(ITEMS, 0)
    for number in range(0, ITEMS, 2):
        index.delete(f"{number:05}")
    settled(index)
    index.put([item(1, vectors[3]), item(3, vectors[1])])
    before = {one.id: one for one in index.page(ITEMS)}
    index.rebuild()
    stats = settled(index).stats()
    assert stats.rebuild is not None
    assert (stats.rebuild.stage, stats.items, stats.deleted, stats.mode) == ("done", ITEMS // 2, 0, "approximate")
    for _ in range(2):
        after = {one.id: one for one in index.page(ITEMS)}
        assert after.keys() == before.keys()
        for id, one in after.items():
            assert (one.modality, one.metadata) == (before[id].modality, before[id].metadata)
            np.testing.assert_array_equal(one.vector, before[id].vector)
        names = sorted(path.name.partition(".")[0] for path in (tmp_path / "many").iterdir() if "wal" not in path.name)
        assert names == ["approximate", "items", "kind", "vectors"]
        indexes.close()
        indexes = Indexes(tmp_path, options=SMALL)
        index = settled(indexes.get("many"))  # type: ignore[assignment]
        assert index.stats().deleted == 0
    indexes.close()


def test_searches_and_writes_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small step of copying at a time, so that every kind of change happens while it is done."""
    monkeypatch.setattr("serving.index._compaction.PIECE_BYTES", 50 * 4 * DIMENSION)
    indexes, index = filled(tmp_path)
    wanted = {f"{n:05}": v for n, v in enumerate(drawn(ITEMS, 0))}
    assert index.delete("00000")
    del wanted["00000"]
    index.rebuild()
    random = np.random.default_rng(0)
    problems: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            hits = index.search(Query(random.normal(size=DIMENSION).astype(np.float32))).hits
            if len({hit.id for hit in hits}) != 10:
                problems.append(str(hits))

    reader = threading.Thread(target=read)
    reader.start()
    turn = 0
    while not (progress := index.stats().rebuild).ended:  # type: ignore[union-attr]
        turn += 1
        number = int(random.integers(ITEMS))
        if turn % 3:
            vector = random.normal(size=DIMENSION).astype(np.float32)
            index.put([item(number, vector), item(ITEMS + turn, vector)])
            wanted |= {f"{number:05}": vector, f"{ITEMS + turn:05}": vector}
        else:
            assert index.delete(f"{number:05}") == (wanted.pop(f"{number:05}", None) is not None)
    done.set()
    reader.join()
    assert turn > 20
    assert problems == []
    assert progress is not None
    assert progress.stage == "done", progress
    for _ in range(2):
        kept = {one.id: one.vector.tolist() for one in index.page(10**6)}
        assert kept == {id: vector.tolist() for id, vector in wanted.items()}
        indexes.close()
        indexes = Indexes(tmp_path, options=SMALL)
        index = indexes.get("many")  # type: ignore[assignment]
    indexes.close()


def test_closing_ends_a_rebuild(tmp_path: Path) -> None:
    indexes, index = filled(tmp_path)
    index.delete("00000")
    index.rebuild()
    started = time.monotonic()
    indexes.remove("many")
    assert time.monotonic() - started < 30
    with pytest.raises(NotFound):
        index.rebuild()
    assert list(tmp_path.iterdir()) == []


def test_build_that_fails_leaves_the_index_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    indexes, index = filled(tmp_path)
    index.delete("00000")

    def fail(*_: Any) -> None:
        raise EngineError("no space left")

    monkeypatch.setattr(Job, "run", fail)
    index.rebuild()
    stats = settled(index).stats()
    assert stats.rebuild is not None
    assert (stats.rebuild.stage, stats.rebuild.error) == ("failed", "no space left")
    assert (stats.items, stats.deleted, stats.mode) == (ITEMS - 1, 1, "approximate")
    index.put([item(0, drawn(1, 9)[0])])
    assert len(list((tmp_path / "many").glob("vectors.*"))) == 1
    indexes.close()


def test_building_says_why_it_failed(tmp_path: Path) -> None:
    job = Job(str(tmp_path / "absent"), 3, 5, 0.9)
    with pytest.raises(EngineError, match=r"status 1: FileNotFoundError"):
        job.run(tmp_path, np.ones(5, np.bool_), [], lambda *_: None)


def test_measured_recall_is_that_of_the_structure(tmp_path: Path) -> None:
    """Against a computation that shares nothing with it."""
    vectors = drawn(2000, 0)
    vectors.tofile(tmp_path / "v")
    queries = drawn(100, 8)
    np.save(tmp_path / QUERIES_FILE, queries)
    np.save(tmp_path / "live.npy", np.arange(2000) % 3 > 0)
    Building(tmp_path, Job(str(tmp_path / "v"), DIMENSION, 2000, 0.9))()
    made = Approximate(tmp_path)
    live = np.arange(2000) % 3 > 0
    shares = []
    for query in queries:
        scores = np.where(live, vectors.astype(np.float64) @ query, -np.inf)
        rows = made.candidates(query, live, 10)
        near = rows[np.argsort(-scores[rows])[:10]]
        shares.append(len(set(near.tolist()) & set(np.argsort(-scores)[:10].tolist())) / 10)
    assert made.recall.of == "queries"
    assert made.recall.value == pytest.approx(np.mean(shares), abs=1e-9)
    assert made.recall.value >= 0.9


KILLED = """
import os, sys, time
from pathlib import Path
import tests.serving.index.test_approximate as t
indexes = t.Indexes(Path(sys.argv[1]), options=t.SMALL)
index = t.settled(indexes.get("many"))
index.delete(sys.argv[2])
index.rebuild()
print("started", flush=True)
number = int(sys.argv[3])
while True:
    index.put([t.item(number, t.drawn(1, number)[0])])
    print(number, flush=True)
    number += 1
"""


@pytest.mark.parametrize("seconds", [0.0, 0.4, pytest.param(1.0, marks=pytest.mark.slow)])
def test_kill_during_a_rebuild_loses_nothing(tmp_path: Path, seconds: float) -> None:
    indexes, _ = filled(tmp_path)
    indexes.close()
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, tmp_path, "00007", str(ITEMS)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    time.sleep(seconds)
    process.kill()
    said = [line for line in process.communicate()[0].splitlines(keepends=True) if line.endswith("\n")]
    indexes = Indexes(tmp_path, options=SMALL)
    index = indexes.get("many")
    kept = {one.id: one.vector.tolist() for one in index.page(10**6)}
    wanted = {f"{n:05}": v.tolist() for n, v in enumerate(drawn(ITEMS, 0)) if n != 7}
    wanted |= {f"{int(line):05}": drawn(1, int(line))[0].tolist() for line in said}
    assert wanted.items() <= kept.items()
    assert len(kept) <= len(wanted) + 1
    assert len(list((tmp_path / "many").glob("vectors.*"))) == 1
    assert not list((tmp_path / "many").glob(".approximate*"))
    indexes.close()
