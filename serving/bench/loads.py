"""What is asked of a target, and what it did: loads, windows, points. Knows no process and no file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

NS_PER_MS = 1e6
OK = range(200, 300)


@dataclass(frozen=True)
class Load:
    """A closed loop of so many connections at once, or an open loop of so many requests a second."""

    kind: Literal["closed", "open"]
    amount: float

    @property
    def label(self) -> str:
        return f"{self.amount:g} at once" if self.kind == "closed" else f"{self.amount:,.4g}/s"


@dataclass
class Window:
    """What was seen in so many seconds; times are nanoseconds.

    Attributes:
        latencies: of answers that were successes, and of no others.
        statuses: all answers by their status, and what had none by its reason.
        late: how long after its moment the generator took up each request of an open loop.
        cpu_s: seconds of a core that the generator took, or the engine, if it runs there.
        waited: requests that were due while all connections were busy. unsent: those still due at the end.
        queued, ran: altogether, where the engine runs in process.
        failures: of answers that were no successes.
    """

    seconds: float
    latencies: NDArray[np.int64]
    statuses: Counter[str]
    late: NDArray[np.int64]
    cpu_s: float = 0.0
    waited: int = 0
    unsent: int = 0
    queued: int = 0
    ran: int = 0
    failures: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def throughput(self) -> float:
        """Successes a second."""
        return len(self.latencies) / self.seconds

    def percentile_ms(self, percent: float) -> float | None:
        return float(np.percentile(self.latencies, percent)) / NS_PER_MS if len(self.latencies) else None

    def to_json(self, turn: int) -> dict[str, Any]:
        return {
            "turn": turn,
            "seconds": round(self.seconds, 6),
            "requests": len(self.latencies),
            "throughput": self.throughput,
            "p50_ms": self.percentile_ms(50),
            "p99_ms": self.percentile_ms(99),
        }


def merged(parts: Sequence[Window]) -> Window:
    """The windows of several generators that ran at the same time."""
    if len(parts) == 1:
        return parts[0]
    return Window(
        float(np.mean([part.seconds for part in parts])),
        np.concatenate([part.latencies for part in parts]),
        sum((part.statuses for part in parts), Counter()),
        np.concatenate([part.late for part in parts]),
        sum(part.cpu_s for part in parts),
        sum(part.waited for part in parts),
        sum(part.unsent for part in parts),
        sum(part.queued for part in parts),
        sum(part.ran for part in parts),
        np.concatenate([part.failures for part in parts]),
    )


@dataclass
class Server:
    """What the server says of itself while it was measured; None where it says nothing.

    Attributes:
        stages_ms: stage -> mean milliseconds of a request.
        batch_rows: mean rows of a batch. batches: upper bound of rows -> batches.
        cpu_cores: cores that were busy on the average. memory_bytes: resident at the end.
        source: where each of these comes from, or why it is absent.
    """

    stages_ms: dict[str, float] | None = None
    batch_rows: float | None = None
    batches: dict[str, float] | None = None
    cpu_cores: float | None = None
    memory_bytes: float | None = None
    source: dict[str, str] = field(default_factory=dict)


@dataclass
class Point:
    """One case under one load: the windows that count, turn by turn, and what came after the last one."""

    case: str
    load: Load
    batch: int = 1
    windows: list[tuple[int, Window]] = field(default_factory=list)
    rest: list[Window] = field(default_factory=list)
    server: Server = field(default_factory=Server)
    generators: int = 1

    def series(self, quantity: str) -> list[float]:
        """A value for every window in which something was answered: `throughput`, `p50_ms` or `p99_ms`."""
        values = [window.to_json(0)[quantity] for _, window in self.windows]
        return [value for value in values if value is not None]

    @property
    def all(self) -> list[Window]:
        return [window for _, window in self.windows] + self.rest

    @property
    def latencies(self) -> NDArray[np.int64]:
        return np.concatenate([window.latencies for window in self.all] or [np.empty(0, np.int64)])

    @property
    def failures(self) -> NDArray[np.int64]:
        return np.concatenate([window.failures for window in self.all] or [np.empty(0, np.int64)])

    @property
    def late(self) -> NDArray[np.int64]:
        return np.concatenate([window.late for window in self.all] or [np.empty(0, np.int64)])

    @property
    def statuses(self) -> Counter[str]:
        return sum((window.statuses for window in self.all), Counter())

    @property
    def errors(self) -> int:
        return sum(count for status, count in self.statuses.items() if not succeeded(status))

    @property
    def seconds(self) -> float:
        return sum(window.seconds for _, window in self.windows)

    @property
    def throughput(self) -> float:
        answered = sum(len(window.latencies) for _, window in self.windows)
        return answered / self.seconds if self.seconds else 0.0

    @property
    def mean_ms(self) -> float | None:
        return float(self.latencies.mean()) / NS_PER_MS if len(self.latencies) else None

    @property
    def unsent(self) -> int:
        return sum(window.unsent for window in self.all)


def succeeded(status: str) -> bool:
    return status.isdecimal() and int(status) in OK
