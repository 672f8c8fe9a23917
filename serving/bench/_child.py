"""What the processes that make load have in common: they take commands as lines of JSON, and say a line a window.

The first line is the configuration, answered with `{"ready": ..}`. `run` starts a load, which goes on until `stop`.
Imports nothing heavy: this is what a load generator is made of.
"""

from __future__ import annotations

import base64
import json
import random
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

clock = time.perf_counter_ns
SECOND = 1_000_000_000


class Window:
    """What happened between two moments.

    Attributes:
        latencies: nanoseconds of the answers that were successes. failures: of those that were none.
        late: nanoseconds between the moment at which a request was due and that at which this process took it up.
        statuses: answers by status; what got none by its reason.
        waited: requests that were due and found no free connection.
        queued, ran: nanoseconds altogether, where this process runs the engine itself.
    """

    def __init__(self) -> None:
        self.started = clock()
        self._cpu = time.process_time()
        self.latencies = array("q")
        self.failures = array("q")
        self.late = array("q")
        self.statuses: Counter[str] = Counter()
        self.waited = self.queued = self.ran = 0

    def say(self, *, last: bool = False, unsent: int = 0) -> None:
        """The window as one line on stdout."""
        emit(
            {
                "seconds": (clock() - self.started) / SECOND,
                "cpu_s": time.process_time() - self._cpu,
                "latencies": base64.b64encode(self.latencies.tobytes()).decode(),
                "failures": base64.b64encode(self.failures.tobytes()).decode(),
                "late": base64.b64encode(self.late.tobytes()).decode(),
                "statuses": self.statuses,
                "waited": self.waited,
                "queued": self.queued,
                "ran": self.ran,
                "last": last,
                "unsent": unsent,
            }
        )


def emit(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def commands() -> Iterator[dict[str, Any]]:
    """Commands until the parent closes the pipe. It sends none before the last one was answered."""
    while line := sys.stdin.buffer.readline():
        yield json.loads(line)


def arrivals(rate: float, seed: int, start: int) -> Iterator[int]:
    """Moments (ns) of a Poisson process of so many a second."""
    source, at = random.Random(seed), float(start)
    while True:
        at += source.expovariate(rate) * SECOND
        yield int(at)


def serve(make: Callable[[dict[str, Any]], Any]) -> None:
    """Runs what `make` makes of the configuration; it has `ready()` and `run(command)`."""
    import gc

    given = commands()
    worker = make(next(given))
    gc.freeze()
    gc.disable()
    emit({"ready": worker.ready()})
    for command in given:
        worker.run(command)
        gc.collect()
