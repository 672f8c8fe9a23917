"""The engine that is fastest here for this graph, by a short trial when it is opened; remembered for this machine.

A candidate has to answer as the default engine does; whether that is right, the caller checks, as with every engine.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wander.engines import DEFAULT_ENGINE, engines
from wander.engines._cache import cache_folder, digest, graph_sha256
from wander.engines._cpuinfo import CPUINFO, read_cpuinfo
from wander.engines.base import Engine, EngineOptions, Session
from wander.errors import BundleError, EngineError, InputError, MissingDependency, WanderError
from wander.files import replace_text
from wander.signature import BATCH, Arrays, Signature

log = logging.getLogger(__name__)

TRIAL_S = 0.2
"""How long a candidate runs for each batch size, after a first batch that is not counted."""
BATCHES = (1, 8)
LENGTH = 16
"""Of free dimensions, in the trial."""
AGREE = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2, "int8": 0.25}
"""How far a candidate may be from the default engine, relative to max(1, max|answer|)."""
PACKAGES = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt")


class AutoSession(Session):
    """The session of the engine that was chosen, and why it was."""

    def __init__(self, chosen: Session, name: str, why: str) -> None:
        super().__init__(chosen.signature)
        self._chosen = chosen
        self._name = name
        self._why = why

    def _run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        return self._chosen._run(inputs)

    def describe(self) -> dict[str, str]:
        return {**self._chosen.describe(), "engine": "auto", "chosen": self._name, "why": self._why}

    def close(self) -> None:
        self._chosen.close()


class AutoEngine(Engine):
    """Asks every engine that can run here and may be elected."""

    electable = False

    @classmethod
    def unavailable(cls) -> str | None:
        return None if candidates() else "no engine can run here; run: pip install 'wander[serve]'"

    @classmethod
    def open(cls, graph: Path, signature: Signature, options: EngineOptions) -> Session:
        names = candidates()
        if not names:
            raise MissingDependency(str(cls.unavailable()))
        try:
            key = digest({**_machine(), "graph": graph_sha256(graph), "options": asdict(options), "engines": names})
        except OSError as error:
            raise BundleError(f"{graph} cannot be read: {error}") from error
        if (known := _recall(key)) is not None and known[0] in names:
            name, why = known[0], f"{known[1]} (remembered)"
            session = engines.get(name).open(graph, signature, options)
        else:
            name, why, session = elect(names, graph, signature, options)
            _remember(key, name, why)
        log.info("%s runs on %s: %s", graph.name, name, why)
        return AutoSession(session, name, why)


def candidates() -> list[str]:
    """The engines that may be chosen and can run here, the default first."""
    found = [name for name, engine in engines if engine.electable and engine.unavailable() is None]
    return sorted(found, key=lambda name: (name != DEFAULT_ENGINE, name))


def elect(names: list[str], graph: Path, signature: Signature, options: EngineOptions) -> tuple[str, str, Session]:
    """The fastest of the candidates, why, and its session, open; the others are closed.

    Raises the first candidate's error if none can run the graph.
    """
    best: tuple[float, str, Session] | None = None
    reference: dict[str, NDArray[Any]] | None = None
    notes: list[str] = []
    failure: WanderError | None = None
    for name in names:
        try:
            session = engines.get(name).open(graph, signature, options)
        except (BundleError, EngineError, MissingDependency) as error:
            failure = failure or error
            notes.append(f"{name} cannot run it")
            log.debug("%s cannot run %s: %s", name, graph, error)
            continue
        try:
            answer, seconds = _try(session, signature, options)
        except (EngineError, InputError) as error:
            session.close()
            failure = failure or EngineError(str(error))
            notes.append(f"{name} failed")
            continue
        reference = reference or answer
        if (apart := _distance(reference, answer)) > AGREE[options.precision]:
            session.close()
            notes.append(f"{name} answers otherwise by {apart:.2g}")
            continue
        notes.append(f"{name} {1000 * seconds:.3g} ms a row")
        if best is None or seconds < best[0]:
            if best is not None:
                best[2].close()
            best = seconds, name, session
        else:
            session.close()
    if best is None:
        raise failure or EngineError(f"no engine can run {graph}")
    return best[1], ", ".join(notes), best[2]


def _try(session: Session, signature: Signature, options: EngineOptions) -> tuple[dict[str, NDArray[Any]], float]:
    """The answers to a few made-up rows, and the geometric mean, over the batch sizes, of the best time of a row."""
    sizes = sorted({min(size, options.max_batch_size) for size in BATCHES})
    answer: dict[str, NDArray[Any]] = {}
    seconds = []
    for size in sizes:
        inputs = made_up(signature, size, min(LENGTH, options.max_length))
        answer = session.run(inputs)
        seconds.append(min(_times(session, inputs)) / size)
    return answer, float(np.exp(np.mean(np.log(seconds))))


def _times(session: Session, inputs: Arrays) -> Iterator[float]:
    until = time.monotonic() + TRIAL_S
    for number in range(1000):
        started = time.perf_counter()
        session.run(inputs)
        yield time.perf_counter() - started
        if number >= 2 and time.monotonic() > until:
            return


def made_up(signature: Signature, rows: int, length: int) -> dict[str, NDArray[Any]]:
    """Seeded inputs: normal floats, ones for whole numbers and for truths."""
    random = np.random.default_rng(0)
    inputs = {}
    for spec in signature.inputs:
        shape = tuple(size if isinstance(size, int) else (rows if size == BATCH else length) for size in spec.dims)
        floats = np.issubdtype(np.dtype(spec.dtype), np.floating)
        inputs[spec.name] = (random.standard_normal(shape) if floats else np.ones(shape)).astype(spec.dtype)
    return inputs


def _distance(reference: Arrays, answer: Arrays) -> float:
    """Infinite where an answer is not finite."""
    worst = 0.0
    for name, value in reference.items():
        a, b = answer[name].astype(np.float64), value.astype(np.float64)
        if not np.isfinite(a).all():
            return np.inf
        worst = max(worst, float(np.abs(a - b).max()) / max(1.0, float(np.abs(b).max())))
    return worst


def _machine() -> dict[str, Any]:
    """What a choice depends on, beside graph and options."""
    name, flags = read_cpuinfo(CPUINFO.read_text("utf-8") if CPUINFO.exists() else "")
    cpu = [platform.machine(), name, *sorted(flags)]  # different processors may have one name
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "packages": {name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _store() -> Path:
    return cache_folder() / "engines.json"


def _choices() -> dict[str, list[str]]:
    try:
        found = json.loads(_store().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read, and the engines are tried again: %s", _store(), error)
        return {}
    return found if isinstance(found, dict) else {}


def _recall(key: str) -> tuple[str, str] | None:
    match _choices().get(key):
        case [str(name), str(why)]:
            return name, why
    return None


def _remember(key: str, name: str, why: str) -> None:
    try:
        replace_text(_store(), json.dumps({**_choices(), key: [name, why]}, indent=1) + "\n")
    except OSError as error:
        log.warning("the choice of %s cannot be remembered: %s", name, error)


plugin = AutoEngine
