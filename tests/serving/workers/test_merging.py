"""Metrics of several processes are those of one."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from serving.workers.merging import merged

NASTY = 'a "name"\\ with\nall'


def exposed(*values: float) -> str:
    registry = CollectorRegistry()
    counter = Counter("refused", 'Said "no"\\ twice\n.', ("reason",), registry=registry)
    histogram = Histogram("seconds", "Time.", ("route",), buckets=(0.1, 1.0), registry=registry)
    Gauge("rows", "Rows.", registry=registry).set(sum(values))
    for value in values:
        counter.labels(NASTY).inc(value)
        histogram.labels(NASTY).observe(value)
    return generate_latest(registry).decode()


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(text)
    return {(s.name, tuple(s.labels.items())): s.value for f in families for s in f.samples if "created" not in s.name}


def test_sum_of_parts_is_what_one_process_would_have_counted() -> None:
    assert samples(merged([exposed(0.05, 3), exposed(0.5)])) == samples(exposed(0.05, 3, 0.5))


def test_alone_nothing_changes() -> None:
    text = exposed(1, 2)
    assert samples(merged([text])) == samples(text)
    kinds = {family.name: (family.type, family.documentation) for family in text_string_to_metric_families(text)}
    again = {f.name: (f.type, f.documentation) for f in text_string_to_metric_families(merged([text]))}
    assert again == kinds


def test_counting_began_with_the_first() -> None:
    texts = [f"# TYPE x_created gauge\nx_created {time}\n" for time in (20.0, 10.0, 30.0)]
    assert "x_created 10.0" in merged(texts)
