"""What the server counts, for Prometheus. One registry an application, so that two in one process do not mix."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

SECONDS = (
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
MODEL = ("model", "version", "adapter")


class Metrics:
    """Durations are in seconds."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Histogram(
            "wander_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ("route", "status"),
            buckets=SECONDS,
            registry=registry,
        )
        self.stages = Histogram(
            "wander_stage_seconds",
            "What one item spent in preprocess, queue, inference and postprocess, and altogether (request).",
            (*MODEL, "engine", "stage"),
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_rows = Histogram(
            "wander_batch_rows", "Rows of a batch.", (*MODEL, "graph", "engine"), buckets=ROWS, registry=registry
        )
        self.batch_seconds = Histogram(
            "wander_batch_seconds",
            "Time an engine took for a batch.",
            (*MODEL, "graph", "engine"),
            buckets=SECONDS,
            registry=registry,
        )
        self.rejections = Counter(
            "wander_rejections_total", "Items that were not answered.", ("model", "reason"), registry=registry
        )
        self.searches = Histogram(
            "wander_index_search_seconds",
            "Search of an index for the vector of a query.",
            ("index", "mode"),
            buckets=SECONDS,
            registry=registry,
        )

    def forget(self, model: tuple[str, str, str]) -> None:
        """Drops what was counted of a model that has gone, so that reloading for weeks does not fill the memory."""
        labels = dict(zip(MODEL, model, strict=True))
        for metric in (self.stages, self.batch_rows, self.batch_seconds):
            metric.remove_by_labels(labels)


class ReadyCollector(Collector):
    """Asks whether the server is ready when it is asked itself.

    Args:
        ready: as `/readyz` tells it.
    """

    def __init__(self, ready: Callable[[], bool]) -> None:
        self._ready = ready

    def collect(self) -> Iterable[Metric]:
        text = "Processes whose models are loaded and which do not drain, as /readyz tells it."
        yield GaugeMetricFamily("wander_ready", text, value=float(self._ready()))


class QueueCollector(Collector):
    """Reads the queues when they are asked for, so that nothing has to be kept up to date.

    Args:
        queues: yields ((model, version, adapter, graph), rows that wait).
    """

    def __init__(self, queues: Iterable[tuple[tuple[str, ...], int]]) -> None:
        self._queues = queues

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily("wander_queue_rows", "Rows that wait for a graph.", labels=[*MODEL, "graph"])
        for labels, rows in self._queues:
            family.add_metric(labels, rows)
        yield family


class IndexCollector(Collector):
    """Looks at the indexes when it is asked.

    Args:
        indexes: gives (index, items, deleted rows, whether search is approximate, recall if it is).
    """

    def __init__(self, indexes: Callable[[], Iterable[tuple[str, int, int, bool, float | None]]]) -> None:
        self._indexes = indexes

    def collect(self) -> Iterable[Metric]:
        items, deleted, approximate, recall = (
            GaugeMetricFamily(f"wander_index_{name}", text, labels=["index"])
            for name, text in (
                ("items", "Items of a retrieval index."),
                ("deleted_rows", "Rows of an index that a rebuild would free."),
                ("approximate", "1 for an index that is searched approximately, 0 for one that is searched exactly."),
                ("recall", "Share of the ten true hits that an approximate search was measured to find."),
            )
        )
        for name, *values in self._indexes():
            for family, value in zip((items, deleted, approximate, recall), values, strict=True):
                if value is not None:
                    family.add_metric([name], float(value))
        yield from (items, deleted, approximate, recall)
