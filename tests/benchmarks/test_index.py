"""The benchmark of the index, small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import _index_http as http
from benchmarks import _index_large as large
from benchmarks.index import facts
from serving.index import IndexOptions

pytest.importorskip("faiss")
ITEMS, DIMENSION = 3000, 600
EARLY = IndexOptions(exact_mb=0.1, recall=0.5)


def test_every_part_of_a_large_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "CLUSTERS", 30)
    said: list[str] = []
    found = large.fill(tmp_path, ITEMS, DIMENSION, said.append)
    assert found["filled"] == ITEMS
    assert "fill_s" not in large.fill(tmp_path, ITEMS, DIMENSION, said.append)
    found |= large.build(tmp_path, EARLY)
    assert found["bytes_an_item"] >= 4 * DIMENSION
    found |= large.search(tmp_path, DIMENSION, said.append, EARLY)
    assert 0 < found["approximate_share"] <= 1
    found |= large.compare(tmp_path, ITEMS, DIMENSION)
    assert found["recall_at_10"] > 0.4
    assert f"{found['recall_at_10']:.3f}" in facts(found)


def test_true_hits_are_those_of_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "CLUSTERS", 30)
    made = large.Clustered(20)
    vectors = np.concatenate([made.draw(1000, start) for start in (0, 1000)])
    queries = made.draw(large.QUERIES, 9)
    for number, hits in enumerate(large.best(made, queries, 2000)[:5]):
        assert set(hits) == set(np.argsort(-(vectors @ queries[number]))[:10].tolist())


def test_enough_different_captions(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("caption\na dog\na cat\na dog\na cow\n")
    assert http.captions(tmp_path / "c.csv", 2) == ["a dog", "a cat"]
    more = http.captions(tmp_path / "c.csv", 7)
    assert more[:3] == ["a dog", "a cat", "a cow"]
    assert len(set(more)) == 7


def test_what_kills_may_not_do() -> None:
    def group(name: str) -> dict[str, dict[str, str]]:
        return {f"{name}-{i}": {"group": name, "pad": "x" * 200} for i in range(http.GROUP)}

    assert http._judge(group("1") | group("2"), {"1"}) == []
    assert http._judge(group("1"), {"1", "2"}) == ["2 is lost"]
    half = group("1")
    del half["1-0"]
    assert http._judge(half, set()) == ["1 is half there"]
    assert len(http._judge(group("1") | {"1-0": {}}, {"1"})) == 1  # type: ignore[dict-item]
