"""One version of a model that can be asked: its bundle, its task, and a queue for each of its graphs.

A model exists only after it answered its own samples as its export did. Knows neither requests nor HTTP.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from prometheus_client import Histogram

from serving.batching import Batcher, BatchingOptions, BatchStats
from serving.cores import usable_cores
from serving.metrics import Metrics
from serving.settings import Settings
from serving.statistics import Statistics
from wander.bundle import Bundle
from wander.engines import EngineOptions, Session, engines
from wander.errors import BundleError
from wander.tasks import Task, tasks

SMALL_S = 0.003
"""A row that takes less on one core is not worth the synchronisation of several."""
GAIN = 1.3
"""So many times faster all cores have to be with a row of a larger graph, or every core gets an instance. A graph of
many narrow layers can even be slower on two cores than on one."""
SMALL_BYTES = 100_000_000
"""Larger weights are not opened twice for a trial."""


OpenSessions = Callable[[Bundle, str, Settings], list[Session]]
"""Opens what runs one graph of a bundle, here or elsewhere."""


@dataclass(eq=False)
class Model:
    """`queues` has one batcher a graph, `statistics` what each has done.

    Attributes:
        stages: stage -> its histogram, for those that were observed: to look one up by labels takes longer.
        bytes: of its weights on disk, for every engine instance: what it takes of the memory budget.
        leases: requests that are using it. Changed on the event loop alone.
        used: when it was last asked, on the clock of `time.monotonic()`.
    """

    bundle: Bundle
    task: Task
    queues: dict[str, Batcher] = field(default_factory=dict)
    engine: dict[str, str] = field(default_factory=dict)
    bytes: int = 0
    leases: int = 0
    used: float = field(default_factory=time.monotonic)
    statistics: dict[str, Statistics] = field(default_factory=dict)
    stages: dict[str, Histogram] = field(default_factory=dict)

    def __post_init__(self) -> None:
        manifest = self.bundle.manifest
        self.name = self.bundle.name
        self.version = self.bundle.version
        self.adapter = manifest.adapter_name
        """Name of the adapter that is folded into the graphs: its own, else its kind."""
        self.labels = (self.name, self.version, self.adapter)
        """Model, version and adapter, as metrics want them."""

    @contextmanager
    def lease(self) -> Iterator[None]:
        """While one is held, the model is not closed, whatever takes its place."""
        self.leases += 1
        self.used = time.monotonic()
        try:
            yield
        finally:
            self.leases -= 1

    def graph_names(self) -> dict[str, str]:
        """The name under which each graph is a model of its own -> the graph."""
        return self.bundle.graph_names()

    def close(self, patience: float) -> None:
        """Waits until nobody uses it, for at most so many seconds, and frees it. Not to be called on the event loop."""
        until = time.monotonic() + patience
        while self.leases and time.monotonic() < until:
            time.sleep(0.005)
        for queue in self.queues.values():
            queue.close(max(0.0, until - time.monotonic()))


def weights_bytes(bundle: Bundle) -> int:
    """Size of the graphs with their weights."""
    stems = {bundle.graph_path(name).name for name in bundle.manifest.graphs}
    return sum(path.stat().st_size for path in bundle.path.iterdir() if path.name.removesuffix(".data") in stems)


def open_model(bundle: Bundle, settings: Settings, metrics: Metrics, sessions: OpenSessions | None = None) -> Model:
    """Verifies the files, opens every graph, and compares the answers to its samples with those of the export.

    Args:
        sessions: opens those of one graph, each tried; by default `open_sessions`.

    Raises BundleError for a bundle that is not whole, or does not answer as it should.
    """
    open_graph = sessions or open_sessions
    bundle.verify()
    manifest = bundle.manifest
    model = Model(bundle, tasks.get(manifest.task)(manifest, bundle.path))
    size = weights_bytes(bundle) // len(manifest.graphs)
    try:
        for name, graph in manifest.graphs.items():
            opened = open_graph(bundle, name, settings)
            model.bytes += size * len(opened)
            model.engine.update(opened[0].describe(), instances=str(len(opened)))
            options = BatchingOptions(
                graph.max_batch_size,
                max(settings.max_queue_rows, graph.max_batch_size),
                settings.batch_delay_ms / 1000,
                settings.adaptive_batching,
            )
            statistics = model.statistics[name] = Statistics()
            observer = _Observer(metrics, (*model.labels, name, settings.engine), statistics)
            model.queues[name] = Batcher(opened, options, observer, f"{bundle.name}/{name}")
    except BaseException:
        model.close(0)
        raise
    return model


def open_sessions(bundle: Bundle, graph: str, settings: Settings, cores: int | None = None) -> list[Session]:
    """Sessions of one graph, each warmed and tried. They share `cores`: those of this process, if none are named.

    How many there are, if the settings leave it open, a trial says: a graph whose row takes less than `SMALL_S` on one
    core, or that all cores make less than `GAIN` times as fast, gets an instance a core; another gets all for itself.
    """
    cores = cores or max(1, usable_cores() // settings.workers)
    opened: list[Session] = []

    def more(instances: int, threads: int) -> None:
        engine = engines.get(settings.engine)
        while len(opened) < instances:
            options = EngineOptions.of(bundle.manifest, graph, threads)
            opened.append(engine.open(bundle.graph_path(graph), bundle.manifest.graphs[graph].signature, options))
            try_session(bundle, graph, opened[-1])

    try:
        if settings.instances:
            more(settings.instances, settings.threads or max(1, cores // settings.instances))
        elif cores == 1 or weights_bytes(bundle) > SMALL_BYTES:
            more(1, settings.threads or cores)
        else:
            threads = settings.threads or 1
            more(1, threads)
            alone = _seconds_of_a_row(bundle, graph, opened[0])
            many = alone < SMALL_S
            if not many and not settings.threads:
                more(2, cores)  # the second has all of them
                many = alone < GAIN * _seconds_of_a_row(bundle, graph, opened[1])
                opened.pop(1 if many else 0).close()
            if many:
                more(max(1, cores // threads), threads)
    except BaseException:
        for session in opened:
            session.close()
        raise
    return opened


def _seconds_of_a_row(bundle: Bundle, graph: str, session: Session) -> float:
    """The best of a few runs of one sample."""
    row = {name: value[:1] for name, value in bundle.samples(graph).inputs.items()}
    best = math.inf
    for _ in range(3):
        started = time.monotonic()
        session.run(row)
        best = min(best, time.monotonic() - started)
    return best


def try_session(bundle: Bundle, graph: str, session: Session) -> None:
    """Warms a session and raises BundleError if it does not answer the samples as the export did."""
    samples = bundle.samples(graph)
    allowed = [check for check in bundle.parity.get("checks", ()) if check["graph"] == graph]
    if not allowed:
        raise BundleError(f"{bundle.path}: the parity report has no check of graph {graph}")
    outputs = session.run(samples.inputs)
    if not session.computes:
        return
    for name, reference in samples.expected.items():
        error = float(np.abs(outputs[name].astype(np.float64) - reference).max())
        limit = max(check["tolerance"] for check in allowed) * max(1.0, float(np.abs(reference).max()))
        if not error <= limit:
            raise BundleError(
                f"{bundle.path}: graph {graph} differs from its stored reference by {error:.3g} (allowed "
                f"{limit:.3g}) on this machine; see: wander verify {bundle.path}"
            )


class _Observer:
    """Counts the batches of one graph."""

    def __init__(self, metrics: Metrics, labels: tuple[str, ...], statistics: Statistics) -> None:
        self._rows = metrics.batch_rows.labels(*labels)
        self._seconds = metrics.batch_seconds.labels(*labels)
        self._statistics = statistics

    def __call__(self, batch: BatchStats) -> None:
        self._rows.observe(batch.rows)
        self._seconds.observe(batch.seconds)
        self._statistics.batch(batch.rows, batch.seconds)
