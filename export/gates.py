"""What a narrower arithmetic may cost: the bars of fp32, fp16, bf16 and int8, and how much a task's metric may lose.

Knows neither graphs nor engines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from wander.errors import ParityError
from wander.manifest import Precision


@dataclass(frozen=True)
class Bar:
    """Attributes:

    tolerance: largest |a-b|, relative to max(1, max|reference|).
    agreement: least share of decisions that agree. For fp32 all must, of those that rounding cannot turn; below that,
        of all there are, for then the doubtful ones are what is at stake. At least one may differ: few rows have no
        finer share.
    cosine: least cosine of a row with its reference; it alone speaks for a graph that decides nothing.
    """

    tolerance: float
    agreement: float = 1.0
    cosine: float = -1.0

    def passes(self, max_rel: float, cosine: float, agreement: float, decisions: int, *, narrow: bool) -> bool:
        if not max_rel <= self.tolerance:
            return False
        if narrow and not decisions:
            return cosine >= self.cosine
        spare = math.ceil((1 - self.agreement) * decisions - 1e-9) if narrow else 0
        return round((1 - agreement) * decisions) <= spare


BARS: dict[Precision, Bar] = {
    "fp32": Bar(1e-5),
    "fp16": Bar(2e-2, agreement=0.99, cosine=0.999),
    "bf16": Bar(0.1, agreement=0.97, cosine=0.995),
    "int8": Bar(0.5, agreement=0.95, cosine=0.98),
}
"""The tolerances below fp32 keep out what is broken; what is good enough, agreement and metric say."""

POINTS = 0.005
"""Accuracy and F1 may lose half a point."""
SHARE = 0.01
"""An error may grow, and a recall shrink, by 1 % of itself."""
POINTED = ("accuracy", "acc2", "acc7", "f1")
RECALLS = ("r1", "r5", "r10")
ERRORS = ("mae",)
"""Other metrics (correlation, ranks) are reported, and hold up nothing."""


def losses(reference: Mapping[str, float], narrowed: Mapping[str, float]) -> dict[str, float]:
    """What every metric that counts has lost, in parts of what it may lose: beyond 1 is too much, below 0 a gain."""
    found = {}
    for name, was in reference.items():
        kind, lost = name.rpartition(".")[2], was - narrowed[name]
        if kind in POINTED:
            found[name] = lost / POINTS
        elif kind in RECALLS:
            found[name] = lost / (SHARE * was) if was else math.inf * (lost > 0)
        elif kind in ERRORS:
            found[name] = -lost / (SHARE * was) if was else math.inf * (lost < 0)
    return {name: 0.0 if math.isnan(value) else value for name, value in found.items()}


def gate_metrics(reference: Mapping[str, float], narrowed: Mapping[str, float]) -> None:
    """Raises ParityError that names the metric that lost most, if that is more than it may lose."""
    found = losses(reference, narrowed)
    worst = max(found, key=lambda name: found[name], default=None)
    if worst is not None and found[worst] > 1 + 1e-9:
        raise ParityError(
            f"{worst} went from {reference[worst]:.4f} to {narrowed[worst]:.4f}: {found[worst]:.1f} times what it may "
            f"lose ({POINTS:.1%} of accuracy or F1, {SHARE:.0%} of an error or a recall)"
        )
