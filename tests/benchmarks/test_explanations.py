from pathlib import Path

import numpy as np
import pytest

from benchmarks.explanations import deletion
from tests.benchmarks.running import quick
from tests.oracles import SHARED, needs_mosi


def test_deletion_compares_the_top_token_with_the_mean_of_those_that_were_sent() -> None:
    contributions = np.array([[1.0, -3.0, 9.0], [2.0, 1.0, 0.0], [5.0, 0.0, 0.0]])
    moves = np.array([[0.5, -2.0, 7.0], [0.1, 0.3, 0.5], [9.0, 9.0, 9.0]])
    given = np.array([[True, True, False], [True, True, True], [True, False, False]])
    found = deletion(contributions, moves, given, np.random.default_rng(0))
    assert found["items"] == 2  # the last has one token, and no other to compare it with
    assert found["top"] == pytest.approx((2.0 + 0.1) / 2)
    assert found["random"] == pytest.approx((1.25 + 0.3) / 2)
    assert found["largest"] == pytest.approx((2.0 + 0.5) / 2)
    assert found["more_often"] == 0.5
    assert found["low"] <= found["top"] - found["random"] <= found["high"]


@needs_mosi
@pytest.mark.slow
def test_sums_are_exact_and_the_top_token_matters(tmp_path: Path) -> None:
    found = quick("explanations", tmp_path / "explanations.json", "--data", str(SHARED / "data" / "mosi"))
    assert found["sums"]["items"] == 200
    assert found["sums"]["largest_error"] < 1e-4
    assert found["sums"]["largest_difference"] > 0.1
    for row in found["deletion"]:
        if row["way"] == "factor":
            assert row["low"] > 0, row
