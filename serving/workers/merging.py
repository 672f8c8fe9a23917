"""Metrics of several processes as those of one, in Prometheus' text format."""

from __future__ import annotations

import math
from collections.abc import Sequence

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.utils import floatToGoString

CREATED = "_created"
"""Suffix of the samples that say when counting began."""


def merged(texts: Sequence[str]) -> str:
    """Sums samples of the same name and labels; of the times at which counting began, the first counts."""
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            families.setdefault(family.name, family)
            known = values.setdefault(family.name, {})
            for sample in family.samples:
                key = sample.name, tuple(sample.labels.items())
                if sample.name.endswith(CREATED):
                    known[key] = min(known.get(key, math.inf), sample.value)
                else:
                    known[key] = known.get(key, 0.0) + sample.value
    lines = []
    for name, family in families.items():
        exposed = f"{name}_total" if family.type == "counter" else name
        lines.append(f"# HELP {exposed} {_escaped(family.documentation)}")
        lines.append(f"# TYPE {exposed} {family.type}")
        for (sample_name, labels), value in values[name].items():
            inside = ",".join(f'{label}="{_escaped(text, quote=True)}"' for label, text in labels)
            number: str = floatToGoString(value)  # type: ignore[no-untyped-call]
            lines.append(f"{sample_name}{{{inside}}} {number}" if inside else f"{sample_name} {number}")
    return "\n".join(lines) + "\n"


def _escaped(text: str, *, quote: bool = False) -> str:
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quote else text
