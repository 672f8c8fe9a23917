import math

import numpy as np
import pytest

from serving.bench.noise import NORMAL95, T95, Ratio, Rule, half_width, ratio


def test_the_interval_is_students() -> None:
    # mean 10, deviation 1, 3 values: 4.303 / sqrt(3) of it
    assert half_width([9, 10, 11]) == pytest.approx(4.303 / math.sqrt(3) / 10)
    assert half_width([5.0] * 4) == 0


@pytest.mark.parametrize("values", [[], [3.0], [0.0, 0.0], [-1.0, 1.0]])
def test_of_nothing_nothing_is_sure(values: list[float]) -> None:
    assert half_width(values) == math.inf


def test_quantiles_fall_towards_the_normal() -> None:
    assert list(T95) == sorted(T95, reverse=True)
    assert T95[-1] > NORMAL95


def test_an_interval_of_the_mean_holds_it_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        values = random.normal(100, 10, 6)
        mean = float(values.mean())
        held += abs(mean - 100) <= half_width(values.tolist()) * mean
    assert 920 <= held <= 980


def test_the_rule_wants_enough_windows_and_both_intervals() -> None:
    rule = Rule(throughput=0.05, p99=0.10, least=3)
    even, uneven = [100.0, 101.0, 99.0], [100.0, 150.0, 50.0]
    assert rule.holds(even, even)
    assert not rule.holds(even[:2], even[:2])
    assert not rule.holds(uneven, even)
    assert not rule.holds(even, uneven)
    assert not rule.holds(even, [])


def test_a_difference_beyond_noise_is_found_and_noise_is_not() -> None:
    random = np.random.default_rng(1)
    a = random.normal(100, 3, 12).tolist()
    same, slower = random.normal(100, 3, 12).tolist(), random.normal(80, 3, 12).tolist()
    found = ratio(a, slower)
    assert found is not None
    assert found.low < 0.8 < found.high < 0.9
    assert found.beyond(0.05)
    equal = ratio(a, same)
    assert equal is not None
    assert equal.low < 1 < equal.high


def test_differences_of_equals_are_seldom_called_more_than_noise() -> None:
    random = np.random.default_rng(2)
    called = 0
    for _ in range(200):
        a, b = random.normal(100, 10, (2, 10)).tolist()
        found = ratio(a, b)
        called += found is not None and found.beyond(0)
    assert called <= 30  # a bootstrap of ten windows is a little too sure of itself: not 5 %, but not many more


def test_the_interval_widens_with_the_number_of_comparisons() -> None:
    a, b = [9.0, 10, 11, 10, 12, 8], [10.0, 11, 12, 10, 9, 13]
    one, many = ratio(a, b), ratio(a, b, comparisons=20)
    assert one is not None
    assert many is not None
    assert many.low < one.low < one.high < many.high


@pytest.mark.parametrize(("a", "b"), [([1.0, 1.0], [1.0] * 5), ([1.0] * 5, []), ([0.0] * 5, [1.0] * 5)])
def test_too_few_windows_say_nothing(a: list[float], b: list[float]) -> None:
    assert ratio(a, b) is None


@pytest.mark.parametrize(
    ("found", "beyond"),
    [
        (Ratio(1.2, 1.1, 1.3), True),
        (Ratio(1.2, 0.9, 1.5), False),
        (Ratio(1.03, 1.02, 1.04), False),
        (Ratio(0.5, 0.4, 0.6), True),
    ],
)
def test_beyond_is_outside_of_noise_and_of_the_tolerance(found: Ratio, beyond: bool) -> None:
    assert found.beyond(0.05) is beyond
