"""The models of a folder: found, verified, opened, warmed and tried, then handed out by name and version.

A model is handed out only after it answered its own samples as its export did. Knows neither requests nor HTTP.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.batching import Batcher, BatchingOptions, BatchStats
from serving.metrics import Metrics, QueueCollector
from serving.settings import Settings
from wander.bundle import Bundle, versions
from wander.engines import EngineOptions, Session, engines
from wander.errors import BundleError, NotFound, NotReady
from wander.tasks import Task, tasks

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """A version that can be asked. `queues` has one batcher a graph."""

    bundle: Bundle
    task: Task
    queues: dict[str, Batcher]
    engine: dict[str, str]

    @property
    def name(self) -> str:
        return self.bundle.name

    @property
    def version(self) -> str:
        return self.bundle.version

    @property
    def adapter(self) -> str:
        """Name of the adapter that is folded into the graphs: its own, else its kind."""
        adapter = self.bundle.manifest.adapter
        return str(adapter.get("name") or adapter["kind"])

    @property
    def labels(self) -> tuple[str, str, str]:
        """Model, version and adapter, as metrics want them."""
        return self.name, self.version, self.adapter

    def close(self, patience: float) -> None:
        for queue in self.queues.values():
            queue.close(patience)


class Repository:
    """Loads the latest version of every model in `settings.models`."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self._models: dict[str, Model] = {}
        self._ready = False
        metrics.registry.register(QueueCollector(_Queues(self)))

    @property
    def ready(self) -> bool:
        return self._ready

    @property
    def models(self) -> list[Model]:
        """Loaded models, by name."""
        return [self._models[name] for name in sorted(self._models)]

    def load(self, bundles: Sequence[Bundle] | None = None) -> None:
        """Loads the given bundles, or everything in the folder, and is ready then. Blocks.

        Raises BundleError for a folder without models, or for a bad bundle.
        """
        for bundle in bundles if bundles is not None else self._found():
            model = self._open(bundle)
            self._models[model.name] = model
            log.info("loaded %s version %s (%s)", model.name, model.version, model.engine["provider"])
        self._ready = True

    def _found(self) -> list[Bundle]:
        folder = self.settings.models
        found = sorted(p for p in folder.iterdir() if _is_model(p)) if folder.is_dir() else []
        if not found:
            raise BundleError(f"{folder} holds no models; make one with: wander export CHECKPOINT {folder}/NAME")
        return [Bundle.open(path) for path in found]

    def _open(self, bundle: Bundle) -> Model:
        """Verifies the files, opens every graph, and compares the answers to its samples with those of the export."""
        bundle.verify()
        manifest = bundle.manifest
        task = tasks.get(manifest.task)(manifest, bundle.path)
        engine = engines.get(self.settings.engine)
        threads = self.settings.threads or max(1, len(os.sched_getaffinity(0)) // self.settings.instances)
        queues: dict[str, Batcher] = {}
        described: dict[str, str] = {}
        model = Model(bundle, task, queues, described)
        for name, graph in manifest.graphs.items():
            sessions = [
                engine.open(bundle.graph_path(name), graph.signature, EngineOptions(threads=threads))
                for _ in range(self.settings.instances)
            ]
            described.update(sessions[0].describe())
            for session in sessions:
                self._try(bundle, name, session)
            options = BatchingOptions(
                graph.max_batch_size,
                max(self.settings.max_queue_rows, graph.max_batch_size),
                self.settings.batch_delay_ms / 1000,
            )
            queues[name] = Batcher(sessions, options, self._observer(model, name), f"{bundle.name}/{name}")
        return model

    def _try(self, bundle: Bundle, graph: str, session: Session) -> None:
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

    def _observer(self, model: Model, graph: str) -> _Observer:
        return _Observer(self.metrics, (*model.labels, graph, self.settings.engine))

    def get(self, name: str, version: str | None = None) -> Model:
        """Raises NotReady while models are being loaded, NotFound that names what there is."""
        if not self._ready:
            raise NotReady("the models are being loaded")
        model = self._models.get(name)
        if model is None:
            raise NotFound(f"there is no model {name!r}; there are: {', '.join(sorted(self._models))}")
        if version is not None and version != model.version:
            raise NotFound(f"model {name!r} has version {model.version} loaded, not {version!r}")
        return model

    def only(self, task: str) -> Model:
        """The only model of a task. Raises NotReady, or NotFound if there is none or more than one."""
        if not self._ready:
            raise NotReady("the models are being loaded")
        found = [model for model in self.models if model.bundle.manifest.task == task]
        if len(found) == 1:
            return found[0]
        if not found:
            raise NotFound(f"there is no model for the task {task!r} here")
        names = ", ".join(model.name for model in found)
        raise NotFound(f"several models do the task {task!r}; name one of them as model: {names}")

    def close(self) -> None:
        """Finishes what waits, within the drain time, and closes every model."""
        self._ready = False
        for model in self.models:
            model.close(self.settings.drain_s)
        self._models.clear()


class _Observer:
    """Counts the batches of one graph."""

    def __init__(self, metrics: Metrics, labels: tuple[str, ...]) -> None:
        self._rows = metrics.batch_rows.labels(*labels)
        self._seconds = metrics.batch_seconds.labels(*labels)

    def __call__(self, batch: BatchStats) -> None:
        self._rows.observe(batch.rows)
        self._seconds.observe(batch.seconds)


class _Queues:
    """The rows that wait for every graph of a repository, whenever they are read."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def __iter__(self) -> Iterator[tuple[tuple[str, ...], int]]:
        for model in self._repository.models:
            for graph, queue in model.queues.items():
                yield (*model.labels, graph), queue.queue_rows


def _is_model(path: Path) -> bool:
    """Whether a folder is meant to be a model: rejected, temporary and empty ones are not."""
    return not path.name.startswith(".") and not path.name.endswith(".rejected") and bool(versions(path))
