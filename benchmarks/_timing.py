"""Alternating timing: variants take turns, so that a machine that is slow for a while is slow for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """A median and the quartiles around it."""

    median: float
    lower: float
    upper: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        return Spread(*np.quantile(values, (0.5, 0.25, 0.75)).tolist())

    @property
    def relative(self) -> float:
        """Distance of the quartiles over the median: how noisy the measurement was."""
        return (self.upper - self.lower) / self.median


@dataclass(frozen=True)
class Ratio(Spread):
    """Of ratios within every round; `fastest` is that of the fastest rounds, which other work disturbs least."""

    fastest: float

    def __str__(self) -> str:
        return f"{short(self.median)} ({short(self.lower)} to {short(self.upper)}; fastest {short(self.fastest)})"


def alternate(
    variants: Mapping[str, Callable[[], object]],
    rounds: Iterable[object],
    *,
    block: float = 0.02,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of one call, for every variant in every round (A B C, A B C, ..).

    Args:
        block: seconds that the timed calls of a variant in a round should fill. A quarter as many untimed calls go
            before them, in which the threads and cache lines of the variant before give way.
    """
    calls = {}
    for name, call in variants.items():
        call()
        started = clock()
        call()
        calls[name] = max(1, round(block / max(clock() - started, 1e-9)))
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in rounds:
        for name, call in variants.items():
            for _ in range(max(1, calls[name] // 4)):
                call()
            started = clock()
            for _ in range(calls[name]):
                call()
            seconds[name].append((clock() - started) / calls[name])
    return seconds


def ratio(seconds: Sequence[float], reference: Sequence[float]) -> Ratio:
    """Time relative to another variant's; a round is what both went through together."""
    ratios = [own / other for own, other in zip(seconds, reference, strict=True)]
    return Ratio(**asdict(Spread.of(ratios)), fastest=min(seconds) / min(reference))


def short(value: float) -> str:
    """Three significant digits, and no exponent."""
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"
