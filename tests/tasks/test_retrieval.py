"""The measures of retrieval against a plain count, and the ties and holes that a plain count would hide."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wander.tasks import tasks
from wander.tasks._retrieval import both_ways, ranks, recalls


def plain_rank(row: list[float], own: list[bool]) -> int:
    """Sorted by hand: the best own candidate after every stranger that is at least as near."""
    mine = max(value for value, belongs in zip(row, own, strict=True) if belongs)
    return 1 + len([value for value, belongs in zip(row, own, strict=True) if not belongs and value >= mine])


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Similarities with many ties, and at least one own candidate a query."""
    queries, candidates = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    row = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]), min_size=candidates, max_size=candidates)
    mask = st.lists(st.booleans(), min_size=candidates, max_size=candidates).filter(any)
    values = draw(st.lists(row, min_size=queries, max_size=queries))
    own = draw(st.lists(mask, min_size=queries, max_size=queries))
    return np.array(values), np.array(own)


@given(cases())
def test_ranks_are_those_of_a_plain_count(case: tuple[np.ndarray, np.ndarray]) -> None:
    similarity, own = case
    plain = [plain_rank(row, mask) for row, mask in zip(similarity.tolist(), own.tolist(), strict=True)]
    assert ranks(similarity, own).tolist() == plain


@given(cases(), st.integers(0, 2**32 - 1))
def test_the_order_of_candidates_does_not_matter(case: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    similarity, own = case
    order = np.random.default_rng(seed).permutation(similarity.shape[1])
    np.testing.assert_array_equal(ranks(similarity, own), ranks(similarity[:, order], own[:, order]))


def test_equal_vectors_for_everything_earn_the_last_rank() -> None:
    assert ranks(np.zeros((3, 10)), np.eye(3, 10, dtype=bool)).tolist() == [10, 10, 10]


def test_the_best_of_several_own_candidates_counts() -> None:
    similarity = np.array([[0.9, 0.1, 0.8, 0.2]])
    assert ranks(similarity, np.array([[False, True, True, False]])).tolist() == [2]


def test_what_is_no_number_is_the_worst() -> None:
    hole = np.nan
    own = np.array([[True, False, False]])
    assert ranks(np.array([[hole, 1.0, 2.0]]), own).tolist() == [3]
    assert ranks(np.array([[1.0, hole, 0.5]]), own).tolist() == [2]
    assert ranks(np.array([[hole, hole, 0.5]]), np.array([[True, True, False]])).tolist() == [2]


def test_a_query_without_a_candidate_is_named() -> None:
    with pytest.raises(ValueError, match="query 1 has no candidate"):
        ranks(np.zeros((2, 2)), np.array([[True, False], [False, False]]))


def test_recalls_are_shares_of_ranks() -> None:
    found = recalls(np.array([1, 2, 5, 6, 10, 11, 100, 1]))
    assert found == {"r1": 0.25, "r5": 0.5, "r10": 0.75, "mdr": 5.5, "mnr": 17.0}


def test_both_directions() -> None:
    """Two images with two captions each; the second caption of image 0 is nearer to image 1."""
    similarity = np.array([[0.9, 0.1], [0.2, 0.8], [0.0, 0.7], [0.1, 0.6]])
    labels = np.array([0, 0, 1, 1]), np.array([0, 1])
    found = both_ways(("text", "image"), similarity, labels)
    assert found["text_to_image.r1"] == 0.75
    assert found["text_to_image.mnr"] == 1.25
    assert found["image_to_text.r1"] == 0.5
    assert found["image_to_text.mdr"] == 1.5
    assert len(found) == 10


def test_image_text_measures_dot_products() -> None:
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(4, 3)).astype(np.float32), rng.normal(size=(8, 3)).astype(np.float32)
    labels = {"image": np.arange(4), "text": np.arange(8) % 4}
    outputs = {"image": {"image_embedding": image}, "text": {"text_embedding": text}}
    own = labels["text"][:, None] == labels["image"]
    plain = [plain_rank(row, mask) for row, mask in zip((text @ image.T).tolist(), own.tolist(), strict=True)]
    task = object.__new__(tasks.get("image_text"))  # what it measures is the same for every bundle
    assert task.joint_metrics(outputs, labels)["text_to_image.mnr"] == np.mean(plain)


def test_several_graphs_of_a_task_without_such_measures_have_none() -> None:
    assert object.__new__(tasks.get("sentiment")).joint_metrics({"a": {}, "b": {}}, {}) == {}
