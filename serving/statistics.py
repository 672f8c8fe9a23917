"""What one graph has done since it was loaded, as the statistics of the Open Inference Protocol want it.

Prometheus' metrics tell distributions; this tells totals, to clients. Knows no protocol.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field


@dataclass
class Total:
    """How often, and how many seconds altogether."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds

    @property
    def ns(self) -> int:
        return round(self.seconds * 1e9)


@dataclass
class Statistics:
    """Requests are counted on the event loop alone, batches by the threads of the engine.

    Attributes:
        success: requests that were answered, from their admission to their answer.
        fail: those that were not; a client that hung up is one of them.
        queue, infer: what those that were answered spent there.
        batches: rows -> batches of so many.
        last: when a request was last admitted, in seconds since 1970; 0 if none was.
    """

    success: Total = field(default_factory=Total)
    fail: Total = field(default_factory=Total)
    queue: Total = field(default_factory=Total)
    infer: Total = field(default_factory=Total)
    batches: dict[int, Total] = field(default_factory=dict)
    last: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def succeed(self, seconds: float, queued: float, inference: float) -> None:
        self.success.add(seconds)
        self.queue.add(queued)
        self.infer.add(inference)
        self.last = time.time() - seconds

    def batch(self, rows: int, seconds: float) -> None:
        with self._lock:
            self.batches.setdefault(rows, Total()).add(seconds)

    def by_rows(self) -> list[tuple[int, Total]]:
        """(rows, batches of so many), by rows."""
        with self._lock:
            return [(rows, Total(t.count, t.seconds)) for rows, t in sorted(self.batches.items())]
