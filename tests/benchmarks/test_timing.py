from collections.abc import Callable

import pytest

from benchmarks._timing import Ratio, Spread, alternate, ratio, short


class Clock:
    """Time passes only in the calls, which are noted."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def variant(self, name: str, *seconds: float) -> Callable[[], None]:
        """Takes these seconds, one after another; the last one for good."""
        left = list(seconds)

        def call() -> None:
            self.calls.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return call


def test_variants_take_turns() -> None:
    clock = Clock()
    variants = {name: clock.variant(name, 1.0) for name in "ABC"}
    seconds = alternate(variants, range(2), block=1.0, clock=clock)
    warm_up, rounds = "".join(clock.calls[:6]), "".join(clock.calls[6:])
    assert warm_up == "AABBCC"
    assert rounds == "AABBCC" * 2  # one untimed and one timed call each
    assert seconds == {"A": [1.0, 1.0], "B": [1.0, 1.0], "C": [1.0, 1.0]}


def test_fast_variants_are_called_often_enough_to_fill_a_block() -> None:
    clock = Clock()
    variants = {"slow": clock.variant("slow", 8.0), "fast": clock.variant("fast", 1.0)}
    seconds = alternate(variants, range(1), block=8.0, clock=clock)
    assert clock.calls[4:] == ["slow"] * 2 + ["fast"] * (2 + 8)
    assert seconds == {"slow": [8.0], "fast": [1.0]}


def test_neither_the_first_call_nor_the_one_after_a_change_is_timed() -> None:
    clock = Clock()
    slow_start = clock.variant("A", 100.0, 1.0, 50.0, 1.0)  # first call, calibration, settling, timed
    assert alternate({"A": slow_start}, range(1), block=1.0, clock=clock) == {"A": [1.0]}


def test_spread_and_ratio() -> None:
    spread = Spread.of([5.0, 1.0, 2.0, 3.0, 4.0])
    assert (spread.median, spread.lower, spread.upper) == (3.0, 2.0, 4.0)
    assert spread.relative == pytest.approx(2 / 3)


def test_a_slow_spell_that_hits_all_variants_leaves_the_ratio_alone() -> None:
    assert ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == Ratio(2.0, 2.0, 2.0, 2.0)


def test_the_fastest_rounds_are_compared_too() -> None:
    found = ratio([4.0, 2.0, 9.0], [1.0, 3.0, 3.0])
    assert found.fastest == 2.0
    assert str(found) == "3 (1.83 to 3.5; fastest 2)"


def test_short_numbers() -> None:
    assert [short(value) for value in (0.012345, 1.0, 45.678, 123.4, 6173.5)] == ["0.0123", "1", "45.7", "123", "6,174"]
