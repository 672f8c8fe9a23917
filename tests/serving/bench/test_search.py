import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bench.search import GAP, confirmed, highest


@given(limit=st.floats(10, 5000), start=st.floats(100, 1000))
def test_the_rate_found_meets_and_a_little_more_does_not(limit: float, start: float) -> None:
    tried: list[float] = []

    def meets(rate: float) -> bool:
        tried.append(rate)
        return rate <= limit

    found = highest(start, meets)
    assert found is not None
    assert found <= limit <= found * GAP * 1.0001
    assert len(tried) <= 16


def test_no_rate_is_no_number() -> None:
    assert highest(100, lambda _: False) is None


def test_what_never_fails_is_given_as_the_highest_tried() -> None:
    assert highest(100, lambda _: True) == 100 * 2**7


def test_a_rate_that_fails_when_it_is_tried_for_longer_is_lowered() -> None:
    assert confirmed(100, lambda rate: rate < 95) == pytest.approx(93)
    assert confirmed(100, lambda _: False) is None


@pytest.mark.parametrize("limit", [99, 60, 12])
def test_a_rate_is_confirmed_on_a_machine_that_became_much_slower(limit: float) -> None:
    found = confirmed(100, lambda rate: rate < limit)
    assert found is not None
    assert found < limit
