"""How many processor cores this process may use: those it is bound to, and no more than its container pays for."""

from __future__ import annotations

import math
import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Linux, control groups version 2: `quota period` in microseconds, or `max period`."""


def usable_cores() -> int:
    """At least 1. A container with a limit of 2.5 cores counts 3."""
    bound = len(os.sched_getaffinity(0))
    try:
        quota, period = QUOTA.read_text(encoding="ascii").split()
    except (OSError, ValueError):  # no container, or one of another kind
        return bound
    return bound if quota == "max" else max(1, min(bound, math.ceil(int(quota) / int(period))))
