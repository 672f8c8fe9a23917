"""Load on an engine in this process: threads that run one batch again and again. No queue, no server, no HTTP.

    python -m serving.bench._engine    (a configuration and commands on stdin, see `serving.bench._child`)

A closed loop has so many threads, each of which runs the next batch when its last is done. An open loop starts batches
at the moments of a Poisson process; one that is due while all threads are busy waits, and its latency counts from then.
What was due before the end is still run, for the length of a window at most.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from serving.bench._child import SECOND, Window, arrivals, clock, serve


class Runner:
    """One session of one graph, and a batch of rows of its samples."""

    def __init__(self, config: dict[str, Any]) -> None:
        import numpy as np

        from wander.bundle import Bundle
        from wander.engines import EngineOptions, engines

        bundle, graph = Bundle.open(Path(config["bundle"])), config["graph"]
        signature = bundle.manifest.graphs[graph].signature
        options = EngineOptions(threads=config["threads"])
        self.session = engines.get(config["engine"]).open(bundle.graph_path(graph), signature, options)
        rows = np.arange(config["batch"])
        self.inputs = {name: value[rows % len(value)] for name, value in bundle.samples(graph).inputs.items()}
        self.most = min(int(config["connections"]), len(os.sched_getaffinity(0)))
        self.session.run(self.inputs)

    def ready(self) -> dict[str, Any]:
        return dict(self.session.describe())

    def run(self, command: dict[str, Any]) -> None:
        """Makes one load until it is told to stop."""
        self.lock, self.stop, self.ended = threading.Lock(), threading.Event(), 0
        self.window, self.window_ns, self.unsent = Window(), int(command["window_s"] * SECOND), 0
        closed = command["kind"] == "closed"
        self.moments = None if closed else arrivals(command["amount"], command["seed"], self.window.started)
        count = int(command["amount"]) if closed else self.most
        threads = [threading.Thread(target=self._loop, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        ended = threading.Thread(target=self._follow, daemon=True)
        ended.start()
        edge = self.window.started + self.window_ns
        while not self.stop.wait(max(0, edge - clock()) / SECOND):
            self._next_window().say()
            edge = self.window.started + self.window_ns
        for thread in (*threads, ended):
            thread.join()
        while self.moments is not None and next(self.moments) < self.ended:
            self.unsent += 1
        self.window.say(last=True, unsent=self.unsent)

    def _follow(self) -> None:
        """Waits for the parent's word, or its end."""
        sys.stdin.buffer.readline()
        self.ended = clock()
        self.stop.set()

    def _next_window(self) -> Window:
        with self.lock:
            done, self.window = self.window, Window()
        return done

    def _due(self) -> int | None:
        """Waits for the moment of the next batch and gives it, 0 in a closed loop; None at the end of the load."""
        if self.moments is None:
            return None if self.stop.is_set() else 0
        with self.lock:
            due = next(self.moments)
        if (wait := due - clock()) > 0:
            time.sleep(wait / SECOND)
        if not self.stop.is_set() or (due < self.ended and clock() < self.ended + self.window_ns):
            return due
        with self.lock:
            self.unsent += due < self.ended
        return None

    def _loop(self) -> None:
        from wander.errors import ServiceError

        while (due := self._due()) is not None:
            began, status = clock(), "200"
            try:
                self.session.run(self.inputs)
            except ServiceError as error:
                status = type(error).__name__
            ended = clock()
            with self.lock:
                window = self.window
                window.statuses[status] += 1
                if status == "200":
                    window.latencies.append(ended - (due or began))
                    window.ran += ended - began
                    window.queued += began - (due or began)


if __name__ == "__main__":
    serve(Runner)
