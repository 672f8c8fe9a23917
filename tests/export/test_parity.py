"""The gate's arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from export.parity import Check, batch_sizes, compare, gate
from wander.errors import ParityError
from wander.tasks.emotion import Emotion
from wander.tasks.sentiment import Sentiment


def test_batch_sizes_hold_one_two_an_odd_one_and_the_largest() -> None:
    assert batch_sizes(32) == [1, 2, 7, 32]
    assert batch_sizes(2) == [1, 2]
    assert batch_sizes(1) == [1]


def test_errors_are_relative_to_large_values_and_absolute_for_small_ones() -> None:
    expected = {"score": np.array([[100.0], [-50.0]])}
    numbers = compare(expected, {"score": expected["score"] + 5e-4}, Sentiment)
    assert numbers["max_abs"] == pytest.approx(5e-4)
    assert numbers["max_rel"] == pytest.approx(5e-6)
    assert numbers["passed"]
    small = {"score": np.array([[1e-3]])}
    assert not compare(small, {"score": small["score"] + 2e-5}, Sentiment)["passed"]


def test_a_decision_that_flips_fails_even_within_the_tolerance() -> None:
    expected = {"logits": np.array([[1.0, 0.9], [0.0, 1.0]])}
    actual = {"logits": np.array([[0.9, 1.0], [0.0, 1.0]])}
    numbers = compare(expected, actual, Emotion)
    assert numbers["decisions"] == 1  # a margin within the error is no decision that rounding could not turn
    actual = {"logits": np.array([[1.0, 0.9], [1.0, 0.0]])}
    numbers = compare(expected, {"logits": actual["logits"]}, Emotion)
    assert numbers["max_abs"] == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_fails(bad: float) -> None:
    with pytest.raises(ParityError, match="not finite"):
        compare({"score": np.zeros((1, 1))}, {"score": np.full((1, 1), bad)}, Sentiment)


def test_another_shape_fails() -> None:
    with pytest.raises(ParityError, match="came back as"):
        compare({"score": np.zeros((2, 1))}, {"score": np.zeros((1, 1))}, Sentiment)


def test_the_cosine_is_that_of_the_worst_row() -> None:
    expected = {"logits": np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])}
    actual = {"logits": np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])}
    assert compare(expected, actual, Emotion)["cosine"] == pytest.approx(2**-0.5)


def test_the_gate_names_the_worst_check() -> None:
    def check(batch: int, max_rel: float) -> Check:
        return Check(
            graph="model", engine="ort", provider="CPU", precision="fp32", batch=batch, rows=4, max_abs=max_rel,
            dims={}, max_rel=max_rel, cosine=1, agreement=1, decisions=4, tolerance=1e-5, passed=max_rel <= 1e-5,
        )  # fmt: skip

    gate([check(1, 1e-6)])
    with pytest.raises(ParityError, match=r"2 of 3 .* batch 7: .* relative 0\.5"):
        gate([check(1, 1e-6), check(2, 0.1), check(7, 0.5)])
