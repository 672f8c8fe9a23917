"""The processes that make load, seen from the one that measures: starts them, gives commands, reads their windows."""

from __future__ import annotations

import base64
import json
import queue
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from serving.bench.loads import Load, Window, merged
from wander.errors import ServiceError

HTTP, ENGINE = "serving.bench._http", "serving.bench._engine"
PATIENCE_S = 300.0


class Driver:
    """One or several equal processes that share a load.

    Attributes: described: what the first says of itself. pids: the processes.
    """

    def __init__(self, module: str, config: Mapping[str, Any], count: int = 1) -> None:
        self.count = count
        self._children = [_Child(module) for _ in range(count)]
        try:
            share = {**config, "connections": max(1, int(config["connections"]) // count)}
            for child in self._children:
                child.tell(share)
            ready = [child.hear()["ready"] for child in self._children]
            self.described: dict[str, str] = ready[0]
        except BaseException:
            self.close()
            raise
        self.pids = [child.process.pid for child in self._children]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, load: Load, window_s: float, seed: int) -> None:
        """Makes a load until `stop`."""
        working = self._children
        if load.kind == "closed":
            working = working[: int(load.amount)]
        self._working = working
        for number, child in enumerate(working):
            amount = load.amount / len(working)
            if load.kind == "closed":
                amount = int(load.amount) // len(working) + (number < int(load.amount) % len(working))
            command = {"kind": load.kind, "amount": amount, "window_s": window_s, "seed": 1000 * seed + number}
            child.tell(command)

    def window(self) -> Window:
        """The next window, when it is over. Raises ServiceError if a process has ended."""
        return merged([_window(child.hear()) for child in self._working])

    def stop(self) -> Window:
        """Sends no more; what was still answered."""
        for child in self._working:
            child.tell({"do": "stop"})
        return merged([_last(child) for child in self._working])

    def close(self) -> None:
        for child in self._children:
            child.close()


def _last(child: _Child) -> Window:
    """What came since the last window that was read, up to the end; windows nobody read are in it."""
    parts = [child.hear()]
    while not parts[-1]["last"]:
        parts.append(child.hear())
    windows = [_window(part) for part in parts]
    rest = merged(windows)
    rest.seconds = sum(window.seconds for window in windows)
    return rest


def _window(message: Mapping[str, Any]) -> Window:
    return Window(
        message["seconds"],
        _times(message["latencies"]),
        Counter(message["statuses"]),
        _times(message["late"]),
        message["cpu_s"],
        message["waited"],
        message["unsent"],
        message["queued"],
        message["ran"],
        _times(message["failures"]),
    )


def _times(text: str) -> NDArray[np.int64]:
    return np.frombuffer(base64.b64decode(text), np.int64)


class _Child:
    """A process, and a thread that reads what it says, so that it never waits for a reader."""

    def __init__(self, module: str) -> None:
        command = [sys.executable, "-m", module]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self._said: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._said.put(line)
        self._said.put(None)

    def tell(self, message: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
        except BrokenPipeError:
            raise ServiceError("a load generator ended; what it wrote is above") from None

    def hear(self) -> dict[str, Any]:
        try:
            line = self._said.get(timeout=PATIENCE_S)
        except queue.Empty:
            raise ServiceError(f"a load generator said nothing for {PATIENCE_S:.0f} s") from None
        if line is None:
            raise ServiceError(f"a load generator ended with exit code {self.process.wait()}; what it wrote is above")
        message: dict[str, Any] = json.loads(line)
        return message

    def close(self) -> None:
        """Ends the process, and waits for it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()
        with suppress(BrokenPipeError):
            self.process.stdin.close()
