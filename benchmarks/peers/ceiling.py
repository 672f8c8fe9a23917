"""What ONNX Runtime does without a server: items a second at its best, and the time of one item alone.

Every arrangement of the cores is tried: one session that has them all, a session a core in one process, a process a
core. Batches lie ready; nothing is copied, nobody waits.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Barrier as ProcessBarrier
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Arrangement:
    """How the cores are shared out."""

    processes: int
    sessions: int
    threads: int

    def __str__(self) -> str:
        parts = {"process": self.processes, "session": self.sessions, "thread": self.threads}
        return " x ".join(f"{count} {what}" for what, count in parts.items())


def arrangements(cores: int) -> list[Arrangement]:
    found = [Arrangement(1, 1, cores), Arrangement(1, cores, 1), Arrangement(cores, 1, 1)]
    return found if cores > 1 else found[:1]


def items_per_second(
    graph: Path, inputs: Arrays, batches: Sequence[int], arrangement: Arrangement, seconds: float
) -> dict[int, float]:
    """Batch size -> items a second of all sessions together, each running for so long."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(arrangement.processes), context.SimpleQueue()
    work = partial(_process, graph, dict(inputs), list(batches), arrangement, seconds, barrier, results)
    children = [context.Process(target=work, daemon=True) for _ in range(arrangement.processes)]
    for child in children:
        child.start()
    found = [results.get() for _ in children]
    for child in children:
        child.join()
    return {batch: sum(one[batch] for one in found) for batch in batches}


def alone_ms(graph: Path, inputs: Arrays, threads: int, seconds: float) -> float:
    """Median milliseconds of a batch of one, run again and again."""
    session, row = _open(graph, threads), {name: value[:1] for name, value in inputs.items()}
    times: list[float] = []
    for _ in range(5):
        session.run(None, row)
    until = time.perf_counter() + seconds
    while (started := time.perf_counter()) < until:
        session.run(None, row)
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times))


def outputs(graph: Path, inputs: Arrays) -> NDArray[Any]:
    """The reference that every server's answers are compared with: row by row, one thread."""
    session = _open(graph, 1)
    rows = len(next(iter(inputs.values())))
    return np.concatenate(
        [session.run(None, {name: value[i : i + 1] for name, value in inputs.items()})[0] for i in range(rows)]
    )


def _open(graph: Path, threads: int) -> Any:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads, settings.log_severity_level = threads, 1, 3
    return onnxruntime.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])


def _process(
    graph: Path,
    inputs: Arrays,
    batches: Sequence[int],
    arrangement: Arrangement,
    seconds: float,
    barrier: ProcessBarrier,
    results: Any,
) -> None:
    """One of the processes: all sizes in turn, together with the others."""
    sessions = [_open(graph, arrangement.threads) for _ in range(arrangement.sessions)]
    found = {}
    for batch in batches:
        rows = {
            name: np.ascontiguousarray(np.resize(value, (batch, *value.shape[1:]))) for name, value in inputs.items()
        }
        for session in sessions:
            session.run(None, rows)
        barrier.wait()
        rates = [0.0] * len(sessions)
        threads = [
            threading.Thread(target=_rate, args=(session, rows, batch, seconds, rates, number))
            for number, session in enumerate(sessions)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found[batch] = sum(rates)
    results.put(found)


def _rate(session: Any, rows: Arrays, batch: int, seconds: float, rates: list[float], number: int) -> None:
    runs, started = 0, time.perf_counter()
    while (taken := time.perf_counter() - started) < seconds:
        session.run(None, rows)
        runs += 1
    rates[number] = batch * runs / taken
