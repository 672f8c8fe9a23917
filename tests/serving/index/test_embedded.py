"""The embedded index against a brute-force model of it, from several threads, and through files that are not right."""

from __future__ import annotations

import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.index import IndexOptions, Item, Origin, Query
from serving.index._table import FILE
from serving.index.embedded import Embedded
from wander.errors import EngineError, InputError, NotFound

ORIGIN = Origin("towers", "1", "mwa", "a" * 64)
DIMENSION = 3
OPTIONS = IndexOptions()


def vector(*values: float) -> Any:
    return np.array(values, np.float32)


def made(folder: Path, dimension: int = DIMENSION, weights: int = 0) -> Embedded:
    folder.mkdir(parents=True, exist_ok=True)
    Embedded.create(folder, ORIGIN, dimension, weights, OPTIONS)
    return Embedded.open(folder, OPTIONS)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Embedded]:
    opened = made(tmp_path)
    yield opened
    opened.close()


def brute_force(items: dict[str, Item], query: Query) -> list[tuple[str, float]]:
    def fits(item: Item) -> bool:
        same = (
            name in item.metadata
            and item.metadata[name] == value
            and isinstance(item.metadata[name], bool) == isinstance(value, bool)
            for name, value in query.filter.items()
        )
        return item.id not in query.exclude and query.modality in (None, item.modality) and all(same)

    scored = [(i.id, float(i.vector @ query.vector)) for i in items.values() if fits(i)]
    return sorted(scored, key=lambda one: (-one[1], one[0]))[: query.top_k]


IDS = st.sampled_from(["a", "B", "ab", "é", "7", "x/y", "'; --"])
# Small whole numbers have exact products, so that there are many ties.
VECTORS = st.builds(vector, *[st.integers(-2, 2)] * DIMENSION)
VALUES = st.sampled_from([0, 1, 1.0, True, False, None, "x", "1"])
ITEMS = st.builds(
    Item, IDS, st.sampled_from(["image", "text"]), VECTORS, st.dictionaries(st.sampled_from("cd"), VALUES)
)
QUERIES = st.builds(
    Query,
    VECTORS,
    st.integers(1, 8),
    st.dictionaries(st.sampled_from("cd"), VALUES, max_size=1),
    st.sampled_from([None, "image", "text", "video"]),
    st.lists(IDS, max_size=2).map(tuple),
)
STEPS = st.one_of(
    st.tuples(st.just("put"), st.lists(ITEMS, max_size=5)),
    st.tuples(st.just("delete"), IDS),
    st.tuples(st.just("search"), QUERIES),
    st.tuples(st.just("reopen"), st.none()),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=20), QUERIES)
def test_does_what_brute_force_does(steps: list[tuple[str, Any]], last: Query) -> None:
    expected: dict[str, Item] = {}
    with tempfile.TemporaryDirectory() as folder:
        index = made(Path(folder))
        for step, argument in [*steps, ("search", last), ("reopen", None), ("search", last)]:
            match step:
                case "put":
                    index.put(argument)
                    expected |= {item.id: item for item in argument}
                case "delete":
                    assert index.delete(argument) == (expected.pop(argument, None) is not None)
                case "search":
                    assert [(hit.id, hit.score) for hit in index.search(argument).hits] == brute_force(
                        expected, argument
                    )
                case "reopen":
                    index.close()
                    index = Embedded.open(Path(folder), OPTIONS)
        assert index.stats().items == len(expected)
        page = index.page(100)
        assert [item.id for item in page] == sorted(expected)
        for item in page:
            for found in (item, index.get(item.id)):
                assert found is not None
                wanted = expected[item.id]
                assert (found.id, found.modality, dict(found.metadata)) == (item.id, wanted.modality, wanted.metadata)
                np.testing.assert_array_equal(found.vector, wanted.vector)
        index.close()


def test_many_rows_of_a_real_size(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(1000, 64)).astype(np.float32)
    index = made(tmp_path, 64)
    for start in range(0, 1000, 300):
        index.put([Item(f"{row:04}", "image", vectors[row]) for row in range(start, min(start + 300, 1000))])
    for row in range(0, 1000, 2):
        assert index.delete(f"{row:04}")
    query = random.normal(size=64).astype(np.float32)
    scores = vectors.astype(np.float64) @ query
    scores[::2] = -np.inf
    best = np.argsort(-scores)[:50]
    hits = index.search(Query(query, 50)).hits
    assert [int(hit.id) for hit in hits] == best.tolist()
    np.testing.assert_allclose([hit.score for hit in hits], scores[best], rtol=1e-4)
    index.close()


def test_scores_over_weights(tmp_path: Path) -> None:
    """The last two numbers of a vector divide its scores; the index stays exact however large it is."""
    random = np.random.default_rng(0)
    index = made(tmp_path, 5, 2)
    vectors = random.normal(size=(200, 5)).astype(np.float32)
    vectors[:, 3:] = random.integers(0, 2, (200, 2))
    index.put([Item(f"{row:03}", "video", vectors[row], {"even": row % 2 == 0}) for row in range(200)])
    for _ in range(2):
        for weights in ([0.75, 0.25], [1.0, 0.0], [0.0, 0.0]):
            query = np.array([1, -2, 3, *weights], np.float32)
            total = vectors[:, 3:].astype(np.float64) @ weights
            products = vectors[:, :3].astype(np.float64) @ [1, -2, 3]
            scores = np.divide(products, total, out=np.zeros(200), where=total > 0)
            hits = index.search(Query(query, 200)).hits
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
            np.testing.assert_allclose([hit.score for hit in hits], scores[[int(hit.id) for hit in hits]], rtol=1e-5)
            some = index.search(Query(query, 7, {"even": True})).hits
            assert [hit.id for hit in some] == [hit.id for hit in hits if int(hit.id) % 2 == 0][:7]
        index.close()
        index = Embedded.open(tmp_path, IndexOptions(exact_mb=0))
        index.rebuild()
        while not index.stats().rebuild.ended:  # type: ignore[union-attr]
            pass
        assert index.stats().mode == "exact"
    index.close()


def test_pages(index: Embedded) -> None:
    names = ["a", "b", "c", "d", "e"]
    index.put([Item(name, "text", vector(1, 0, 0)) for name in reversed(names)])
    assert [item.id for item in index.page(2)] == ["a", "b"]
    assert [item.id for item in index.page(2, "b")] == ["c", "d"]
    assert [item.id for item in index.page(2, "bb")] == ["c", "d"]
    assert [item.id for item in index.page(2, "e")] == []


@pytest.mark.parametrize(
    "bad",
    [
        *(vector(), vector(1, 2), vector(1, 2, 3, 4), np.ones((1, 3), np.float32)),
        *(vector(*values, 0) for values in ((1, np.nan), (np.inf, 0), (3e38, 0), (1.9e19, 0))),
    ],
    ids=str,
)
def test_vector_that_does_not_fit(index: Embedded, bad: Any) -> None:
    with pytest.raises(InputError):
        index.put([Item("good", "text", vector(1, 0, 0)), Item("bad", "text", bad)])
    with pytest.raises(InputError):
        index.search(Query(bad))
    assert index.stats().items == 0
    assert index.page(10) == []


def test_longest_vectors_have_finite_scores(index: Embedded) -> None:
    longest = vector(1e19, 0, 0)
    index.put([Item("a", "text", longest), Item("b", "text", -longest)])
    hits = index.search(Query(longest)).hits
    assert [hit.id for hit in hits] == ["a", "b"]
    assert np.isfinite([hit.score for hit in hits]).all()


def test_what_is_got_is_not_what_is_kept(index: Embedded) -> None:
    index.put([Item("a", "text", vector(1, 2, 3))])
    item = index.get("a")
    assert item is not None
    item.vector[:] = 0
    again = index.get("a")
    assert again is not None
    assert again.vector.tolist() == [1, 2, 3]


def test_origin_is_remembered(tmp_path: Path) -> None:
    made(tmp_path).close()
    index = Embedded.open(tmp_path, OPTIONS)
    assert (index.origin, index.dimension) == (ORIGIN, DIMENSION)
    index.close()


def test_closed_index(tmp_path: Path) -> None:
    index = made(tmp_path)
    index.close()
    index.close()
    item = Item("a", "text", vector(1, 0, 0))
    for use in (
        lambda: index.put([item]),
        lambda: index.get("a"),
        lambda: index.delete("a"),
        lambda: index.page(1),
        lambda: index.search(Query(item.vector)).hits,
    ):
        with pytest.raises(NotFound):
            use()


def test_two_at_once_on_one_file(tmp_path: Path) -> None:
    index = made(tmp_path)
    with pytest.raises(EngineError, match="open elsewhere"):
        Embedded.open(tmp_path, OPTIONS)
    index.put([Item("a", "text", vector(1, 0, 0))])
    index.close()


def _not_sqlite(path: Path) -> None:
    path.write_bytes(b"This is not SQLite." * 100)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def _schema(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 1")
    connection.close()


def _table(path: Path) -> str:
    with sqlite3.connect(path) as connection:
        (generation,) = connection.execute("SELECT generation FROM state").fetchone()
    connection.close()
    return f"item_{generation}"


def _row(path: Path) -> None:
    """An item whose vector was never written."""
    table = _table(path)
    with sqlite3.connect(path) as connection:
        connection.execute(f"INSERT INTO {table} VALUES (0, 'a', 'text', '{{}}')")
    connection.close()


def _metadata(path: Path) -> None:
    table = _table(path)
    with sqlite3.connect(path) as connection:
        connection.execute(f"INSERT INTO {table} VALUES (0, 'a', 'text', '{{')")
        connection.execute("UPDATE state SET rows = 1")
    connection.close()


def _vectors(path: Path) -> None:
    (vectors,) = path.parent.glob("vectors.*")
    vectors.unlink()


def _short(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE state SET rows = 10000000")
    connection.close()


@pytest.mark.parametrize("spoil", [Path.unlink, _not_sqlite, _empty, _cut, _schema, _row, _metadata, _vectors, _short])
def test_file_that_is_damaged(tmp_path: Path, spoil: Any) -> None:
    made(tmp_path).close()
    spoil(tmp_path / FILE)
    with pytest.raises(EngineError):
        Embedded.open(tmp_path, OPTIONS)
    assert (tmp_path / FILE).exists() == (spoil is not Path.unlink)


def test_write_that_fails_changes_nothing(index: Embedded) -> None:
    index.put([Item("a", "text", vector(1, 0, 0))])
    table = index._table
    table._execute(
        f"CREATE TRIGGER full BEFORE INSERT ON item_{table.generation} BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    )
    with pytest.raises(EngineError, match="disk full"):
        index.put([Item("b", "text", vector(1, 0, 0))])
    table._execute("DROP TRIGGER full")
    assert [item.id for item in index.page(10)] == ["a"]
    assert index.get("b") is None
    index.put([Item("b", "text", vector(1, 0, 0))])
    assert index.stats().items == 2


def test_searches_see_every_write_whole(index: Embedded) -> None:
    """Writers put ten items of one mark together; whoever searches meanwhile sees ten of one mark."""
    names = [f"{number}" for number in range(10)]
    done = threading.Event()
    problems: list[str] = []

    def put(mark: int) -> None:
        index.put([Item(name, "text", vector(mark, 1, 0), {"mark": mark}) for name in names])

    def write(seed: int) -> None:
        for mark in range(seed, seed + 40):
            put(mark)
            index.delete("not here")
        done.set()

    def read() -> None:
        while not done.is_set():
            hits = index.search(Query(vector(1, 0, 0), 20)).hits
            marks = {hit.metadata["mark"] for hit in hits}
            if len(marks) != 1 or [hit.id for hit in hits] != names or {hit.score for hit in hits} != marks:
                problems.append(str(hits))

    put(0)
    threads = [threading.Thread(target=write, args=(seed,)) for seed in (100, 200)]
    threads += [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_writers_of_different_items_lose_nothing(tmp_path: Path) -> None:
    index = made(tmp_path)

    def write(writer: int) -> None:
        for number in range(30):
            index.put([Item(f"{writer}-{number}", "text", vector(writer, number, 0))])
            if number % 3 == 0:
                assert index.delete(f"{writer}-{number}")

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wanted = {f"{w}-{n}": [w, n, 0] for w in range(4) for n in range(30) if n % 3}
    assert {hit.id for hit in index.search(Query(vector(0, 0, 0), 1000)).hits} == set(wanted)
    index.close()
    index = Embedded.open(tmp_path, OPTIONS)
    assert {item.id: item.vector.tolist() for item in index.page(1000)} == wanted
    index.close()
