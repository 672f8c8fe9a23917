import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bench import histogram

MS = 1_000_000


@given(st.lists(st.integers(10 * MS // 1000, 60_000 * MS), min_size=1, max_size=300))
def test_percentiles_are_right_to_three_digits(values: list[int]) -> None:
    found = histogram.percentiles_ms(histogram.record(np.array(values)))
    ordered = sorted(values)
    for name, percent in (("p50", 50), ("p99", 99), ("max", 100)):
        at = max(0, -(-len(values) * percent // 100) - 1)  # the smallest value that so many reach
        assert found[name] == pytest.approx(ordered[at] / MS, rel=2e-3, abs=2e-3)


def test_nothing_recorded_has_no_percentiles() -> None:
    assert set(histogram.percentiles_ms(histogram.record(np.empty(0, np.int64))).values()) == {None}


def test_a_correction_adds_what_a_stall_left_out() -> None:
    # 999 answers of 1 ms, and one of a second: meanwhile 999 more would have been sent, a millisecond apart
    values = np.array([MS] * 999 + [1000 * MS])
    blind = histogram.percentiles_ms(histogram.record(values))
    corrected = histogram.percentiles_ms(histogram.record(values, interval_ns=MS))
    assert blind["p99"] == pytest.approx(1, rel=1e-2)
    assert corrected["p90"] == pytest.approx(800, rel=0.02)
    assert corrected["p99"] == pytest.approx(980, rel=0.02)


def test_what_is_stored_comes_back() -> None:
    recorded = histogram.record(np.array([MS, 2 * MS, 2 * MS, 700 * MS]))
    restored = histogram.decoded(histogram.encoded(recorded))
    values, counts = histogram.bins_ms(restored)
    assert counts == [1, 2, 1]
    assert values == pytest.approx([1, 2, 700], rel=2e-3)
    assert histogram.percentiles_ms(restored) == histogram.percentiles_ms(recorded)
