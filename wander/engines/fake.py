"""An engine without arithmetic, for tests of everything around an engine. It serves only if asked for by name.

Every value of a row's outputs is the mean of that row's inputs, so that an answer tells which row it belongs to.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wander.engines.base import Engine, EngineOptions, Session
from wander.errors import EngineError
from wander.signature import Arrays, Signature


class FakeSession(Session):
    """Attributes that tests set and read:

    delay: seconds that a batch takes.
    poison: says of a row's fingerprint whether a batch with it fails.
    batches: the number of rows of every batch that was run, in order.
    gate: a batch waits for it; clear it to hold the engine busy.
    """

    computes = False

    def __init__(self, signature: Signature) -> None:
        super().__init__(signature)
        self.delay = 0.0
        self.poison: Callable[[float], bool] = lambda _: False
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.closed = False

    def _run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        if self.closed:
            raise EngineError("the session is closed")
        marks = fingerprint(inputs)
        self.batches.append(len(marks))
        self.gate.wait()
        time.sleep(self.delay)
        if any(self.poison(float(mark)) for mark in marks):
            raise EngineError("a poisoned row")
        outputs = {}
        for spec in self.signature.outputs:
            shape = tuple(size if isinstance(size, int) else 1 for size in spec.item_dims)
            filled = np.broadcast_to(marks.reshape(-1, *[1] * len(shape)), (len(marks), *shape))
            outputs[spec.name] = filled.astype(spec.dtype)
        return outputs

    def describe(self) -> dict[str, str]:
        return {"engine": "fake", "provider": "none", "version": "1", "threads": "1"}

    def close(self) -> None:
        self.closed = True


def fingerprint(inputs: Arrays) -> NDArray[np.float64]:
    """One number for every row: the sum of the means of its inputs."""
    return np.asarray(
        np.sum([value.reshape(len(value), -1).astype(np.float64).mean(1) for value in inputs.values()], 0)
    )


class FakeEngine(Engine):
    """Ignores the graph file; only the signature counts."""

    electable = False

    @classmethod
    def unavailable(cls) -> str | None:
        return None

    @classmethod
    def open(cls, graph: Path, signature: Signature, options: EngineOptions) -> Session:
        return FakeSession(signature)


plugin = FakeEngine
