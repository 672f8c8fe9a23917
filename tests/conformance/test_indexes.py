"""Every kind of index, by what `serving.index.base` promises. One whose server is not here is skipped."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serving.index import Index, Indexes, IndexOptions, Item, Origin, Query, kinds
from wander.errors import EngineError, InputError, NotFound, NotReady, ServiceError

ORIGIN = Origin("towers", "1", "mwa", "a" * 64)
PROGRAMS = {"chroma": ("WANDER_TEST_CHROMA", "chroma")}
"""Kind -> the variable that names the program of its server, and the program's name."""


def vector(*values: float) -> Any:
    return np.array(values, np.float32)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Kind -> address; started when the first test of a kind asks for it."""
    started: list[subprocess.Popen[bytes]] = []

    class Servers(dict[str, str]):
        def __missing__(self, kind: str) -> str:
            variable, name = PROGRAMS[kind]
            program = os.environ.get(variable) or shutil.which(name)
            if program is None:
                pytest.skip(f"no server for {kind} here: name its program in {variable}")
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            folder = tmp_path_factory.mktemp(kind)
            command = [program, "run", "--path", str(folder), "--port", str(port)]
            started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            self[kind] = f"http://127.0.0.1:{port}"
            for _ in range(300):
                try:
                    httpx.get(f"{self[kind]}/api/v2/heartbeat").raise_for_status()
                    return self[kind]
                except httpx.HTTPError:
                    time.sleep(0.1)
            raise AssertionError(f"the server for {kind} did not start")

    yield Servers()
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(params=kinds.names())
def indexes(request: pytest.FixtureRequest, tmp_path: Path, servers: dict[str, str]) -> Iterator[Indexes]:
    kind: str = request.param
    opened = Indexes(tmp_path, kind, IndexOptions(server=servers[kind] if kind in PROGRAMS else None))
    yield opened
    for name in opened.names():
        opened.remove(name)
    opened.close()


def ids(index: Index, query: Query) -> list[str]:
    return [hit.id for hit in index.search(query).hits]


def test_what_was_put_is_there(indexes: Indexes) -> None:
    index = indexes.ensure("one", ORIGIN, 3)
    metadata = {"n": [1, {"x": None}], "é": "ü", "big": 2**60, "half": 0.5, "none": None, "no": False}
    index.put([Item("a/é ?", "text", vector(1, 2, 3), metadata)])
    for number in range(2):
        index = indexes.get("one")
        item = index.get("a/é ?")
        assert item is not None
        assert (item.id, item.modality, dict(item.metadata)) == ("a/é ?", "text", metadata)
        np.testing.assert_array_equal(item.vector, vector(1, 2, 3))
        assert (index.origin, index.dimension, index.weights) == (ORIGIN, 3, 0)
        assert index.stats().items == 1
        assert index.get("b") is None
        indexes.close()  # and opened anew, as by another process
        assert number or indexes.names() == ["one"]


def test_a_second_put_replaces_the_first_whole(indexes: Indexes) -> None:
    index = indexes.ensure("one", ORIGIN, 2)
    index.put([Item("a", "text", vector(1, 0), {"old": 1, "both": 1})])
    index.put([Item("a", "text", vector(5, 0)), Item("a", "image", vector(0, 1), {"both": 2})])
    item = index.get("a")
    assert item is not None
    assert (item.modality, dict(item.metadata), item.vector.tolist()) == ("image", {"both": 2}, [0, 1])
    assert index.stats().items == 1
    assert ids(index, Query(vector(1, 1), filter={"old": 1})) == []
    assert ids(index, Query(vector(1, 1), filter={"both": 2})) == ["a"]


def test_what_was_deleted_is_gone(indexes: Indexes) -> None:
    index = indexes.ensure("one", ORIGIN, 2)
    index.put([Item(id, "text", vector(1, 0)) for id in "ab"])
    assert index.delete("a")
    assert not index.delete("a")
    assert ids(index, Query(vector(1, 0))) == ["b"]
    assert (index.get("a"), index.last_stats().items, index.stats().items) == (None, 1, 1)


def test_pages(indexes: Indexes) -> None:
    index = indexes.ensure("one", ORIGIN, 2)
    index.put([Item(id, "text", vector(1, 0)) for id in "cadbe"])
    assert [item.id for item in index.page(2)] == ["a", "b"]
    assert [item.id for item in index.page(2, "b")] == ["c", "d"]
    assert [item.id for item in index.page(9, "bb")] == ["c", "d", "e"]
    assert index.page(2, "e") == []


def test_best_first_by_exact_scores(indexes: Indexes) -> None:
    index = indexes.ensure("one", ORIGIN, 8)
    vectors = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    index.put([Item(f"{n:02}", "text", v) for n, v in enumerate(vectors)])
    query = np.random.default_rng(1).normal(size=8).astype(np.float32)
    true = vectors.astype(np.float64) @ query
    hits = index.search(Query(query, 50)).hits
    assert [int(hit.id) for hit in hits] == np.argsort(-true).tolist()
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(true)[::-1], atol=1e-5)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"x": 1}, "ab"),
        ({"x": 1.0}, "ab"),
        ({"x": True}, "c"),
        ({"x": "1"}, "d"),
        ({"x": None}, "e"),
        ({"x": 2**53 + 1}, "f"),
        ({"x": 1, "y": "z"}, "b"),
        ({"absent": None}, ""),
    ],
    ids=str,
)
def test_filters_compare_as_json_does(indexes: Indexes, wanted: dict[str, Any], found: str) -> None:
    index = indexes.ensure("one", ORIGIN, 2)
    values = [{"x": 1}, {"x": 1.0, "y": "z"}, {"x": True}, {"x": "1"}, {"x": None}, {"x": 2**53 + 1}, {"x": 2**53}, {}]
    index.put([Item(id, "text", vector(1, 0), value) for id, value in zip("abcdefgh", values, strict=True)])
    assert "".join(ids(index, Query(vector(1, 1), filter=wanted))) == found


def test_modality_and_exclusion(indexes: Indexes) -> None:
    index = indexes.ensure("one", ORIGIN, 2)
    index.put([Item(f"{n}", "text" if n % 2 else "image", vector(n, 1)) for n in range(10)])
    assert ids(index, Query(vector(1, 0), 3, modality="text")) == ["9", "7", "5"]
    assert ids(index, Query(vector(1, 0), 3, modality="text", exclude=("9", "5", "absent"))) == ["7", "3", "1"]
    assert ids(index, Query(vector(1, 0), modality="smell")) == []


def test_empty_index(indexes: Indexes) -> None:
    index = indexes.ensure("one", ORIGIN, 2)
    index.put([])
    assert (index.search(Query(vector(1, 0))).hits, index.page(5), index.stats().items) == ([], [], 0)


@pytest.mark.parametrize("bad", [vector(1), vector(1, 2, 3), vector(np.nan, 0), vector(3e38, 0)], ids=str)
def test_vectors_that_do_not_fit(indexes: Indexes, bad: Any) -> None:
    index = indexes.ensure("one", ORIGIN, 2)
    with pytest.raises(InputError):
        index.put([Item("a", "text", vector(1, 0)), Item("b", "text", bad)])
    with pytest.raises(InputError):
        index.search(Query(bad))
    assert index.stats().items == 0


def test_rebuild_changes_no_item(indexes: Indexes) -> None:
    index = indexes.ensure("one", ORIGIN, 4)
    vectors = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    index.put([Item(f"{n:02}", "text", v) for n, v in enumerate(vectors)])
    index.delete("07")
    before = ids(index, Query(vectors[0], 60))
    index.rebuild()
    while not (progress := index.stats().rebuild).ended:  # type: ignore[union-attr]
        time.sleep(0.01)
    assert progress is not None
    assert progress.stage == "done", progress
    assert ids(index, Query(vectors[0], 60)) == before
    stats = index.stats()
    assert (stats.items, stats.deleted) == (59, 0)
    assert stats.mode == "exact" or (stats.recall is not None and 0 < stats.recall.value <= 1)


def test_weights_divide_or_are_refused(indexes: Indexes) -> None:
    if indexes.kind in PROGRAMS:
        with pytest.raises(InputError) as caught:
            indexes.ensure("one", ORIGIN, 3, weights=1)
        assert caught.value.field == "model"
        assert indexes.names() == []
        return
    index = indexes.ensure("one", ORIGIN, 3, weights=1)
    index.put(
        [Item("a", "video", vector(2, 0, 4)), Item("b", "video", vector(1, 0, 1)), Item("c", "video", vector(9, 9, 0))]
    )
    hits = index.search(Query(vector(1, 0, 0.5))).hits
    assert [(hit.id, hit.score) for hit in hits] == [("b", 2), ("a", 1), ("c", 0)]


def test_closed_and_removed(indexes: Indexes) -> None:
    index = indexes.ensure("one", ORIGIN, 2)
    indexes.remove("one")
    for use in (
        lambda: index.put([Item("a", "text", vector(1, 0))]),
        lambda: index.get("a"),
        lambda: index.delete("a"),
        lambda: index.page(1),
        lambda: index.search(Query(vector(1, 0))),
        index.rebuild,
    ):
        with pytest.raises(NotFound):
            use()
    assert indexes.names() == []
    assert indexes.ensure("one", ORIGIN, 3).stats().items == 0


def test_server_that_is_away(tmp_path: Path) -> None:
    for server, error in ((None, EngineError), ("http://127.0.0.1:1", NotReady), ("nonsense", NotReady)):
        indexes = Indexes(tmp_path, "chroma", IndexOptions(server=server))
        with pytest.raises(ServiceError) as caught:
            indexes.ensure("one", ORIGIN, 2)
        assert type(caught.value) is error
        assert indexes.names() == []
