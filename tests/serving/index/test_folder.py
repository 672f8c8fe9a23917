"""Several indexes in a folder, and names that try to leave it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from serving.index import Index, Indexes, Item, Origin
from wander.errors import EngineError, InputError, NotFound

ORIGIN = Origin("towers", "1", "mwa", "a" * 64)
OTHER = Origin("towers", "2", "mwa", "b" * 64)
ITEM = Item("a", "text", np.ones(2, np.float32), {"n": 1})


@pytest.fixture
def indexes(tmp_path: Path) -> Iterator[Indexes]:
    opened = Indexes(tmp_path / "some" / "indexes")
    yield opened
    opened.close()


def test_nothing_is_written_before_it_is_needed(indexes: Indexes) -> None:
    indexes.open_all()
    assert indexes.names() == []
    assert indexes.find("one") is None
    with pytest.raises(NotFound, match="no index 'one'"):
        indexes.get("one")
    with pytest.raises(NotFound):
        indexes.remove("one")
    assert not indexes.folder.exists()


def test_several(indexes: Indexes) -> None:
    first = indexes.ensure("one", ORIGIN, 2)
    first.put([ITEM])
    indexes.ensure("two", OTHER, 3)
    assert indexes.names() == ["one", "two"]
    assert [(name, stats.items) for name, stats in indexes.last_stats()] == [("one", 1), ("two", 0)]
    assert indexes.get("one") is indexes.ensure("one", ORIGIN, 2) is first
    indexes.remove("one")
    assert indexes.names() == ["two"]
    assert sorted(path.name for path in indexes.folder.iterdir()) == ["two"]
    with pytest.raises(NotFound):
        first.get("a")
    assert indexes.ensure("one", OTHER, 2).stats().items == 0


def test_vectors_of_another_model(indexes: Indexes) -> None:
    indexes.ensure("one", ORIGIN, 2)
    indexes.ensure("one", Origin("renamed", "7", "mwa", ORIGIN.sha256), 2)
    with pytest.raises(InputError, match=r"model 'towers' version 1 .* model 'towers' version 2") as caught:
        indexes.ensure("one", OTHER, 2)
    assert caught.value.field == "model"


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../x", "a/b", "/etc", "a\\b", "%2e%2e", "A", "-a", "_a", ".a", "a.b", "a b", "a\n", "a\0"),
        *("é", "٣", "a" * 65),
    ],
)
def test_names_that_are_none(indexes: Indexes, tmp_path: Path, name: str) -> None:
    for use in (indexes.get, indexes.find, indexes.remove, lambda name: indexes.ensure(name, ORIGIN, 2)):
        with pytest.raises(InputError) as caught:
            use(name)
        assert caught.value.field == "index"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a", "0", "a" * 64, "a-b_c", "removed"])
def test_names(indexes: Indexes, name: str) -> None:
    indexes.ensure(name, ORIGIN, 2)
    assert indexes.names() == [name]
    indexes.remove(name)
    assert list(indexes.folder.iterdir()) == []


def test_folder_that_is_no_index_is_left_alone(indexes: Indexes) -> None:
    (indexes.folder / "photos").mkdir(parents=True)
    (indexes.folder / ".hidden").mkdir()
    (indexes.folder / ".removed.x1").mkdir()
    indexes.open_all()
    assert indexes.names() == []
    assert sorted(path.name for path in indexes.folder.iterdir()) == [".hidden", "photos"]
    with pytest.raises(NotFound):
        indexes.remove("photos")
    with pytest.raises(EngineError, match="cannot be made"):
        indexes.ensure("photos", ORIGIN, 2)


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    indexes = Indexes(tmp_path / "file")
    with pytest.raises(EngineError, match="cannot be made"):
        indexes.ensure("one", ORIGIN, 2)


def test_damaged_index_harms_no_other(indexes: Indexes, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("bad", "good"):
        indexes.ensure(name, ORIGIN, 2)
    indexes.close()
    (indexes.folder / "bad" / "items.sqlite").write_bytes(b"garbage" * 1000)
    indexes.open_all()
    assert "index in bad is damaged" in caplog.text
    assert [name for name, _ in indexes.last_stats()] == ["good"]
    with pytest.raises(EngineError):
        indexes.get("bad")
    indexes.remove("bad")
    assert indexes.names() == ["good"]


def test_made_once_by_many(indexes: Indexes) -> None:
    with ThreadPoolExecutor(8) as pool:
        made: list[Index] = list(pool.map(lambda _: indexes.ensure("one", ORIGIN, 2), range(16)))
    assert len(set(map(id, made))) == 1
