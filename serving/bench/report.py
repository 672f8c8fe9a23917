"""A picture of a measurement for a slide, and a page with it that needs nothing else."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serving.bench.captions import captions
from serving.bench.figure import picture
from serving.bench.output import PERCENTILES


def write(path: Path, document: Mapping[str, Any]) -> None:
    """The picture, or the page, as the name ends."""
    image = picture(document)
    if path.suffix == ".png":
        path.write_bytes(image)
    else:
        path.write_text(page(document, image), encoding="utf-8")


def page(document: Mapping[str, Any], image: bytes) -> str:
    """The picture, the table and the circumstances as one page."""
    title = captions(document)[0]
    several = len(document["cases"]) > 1
    columns = [
        *(["case"] if several else []),
        "load",
        "requests/s",
        *(f"{name}, ms" for name in PERCENTILES),
        "errors",
        "stable",
    ]
    rows = []
    for point in document["points"]:
        latency = [
            "-" if point["latency_ms"][name] is None else f"{point['latency_ms'][name]:.4g}" for name in PERCENTILES
        ]
        row = [
            point["load"]["label"],
            f"{point['throughput']:,.1f}",
            *latency,
            f"{sum(point['errors'].values()):,}",
            "yes" if point["stable"] else "no",
        ]
        rows.append([point["case"], *row] if several else row)
    said = [
        f"{point['case']}, {point['load']['label']}: {note}" for point in document["points"] for note in point["notes"]
    ]
    facts = {
        **document["machine"],
        **{name: str(value) for name, value in document["method"].items()},
        "created": document["created"],
    }
    cases = [
        [
            case["label"],
            "; ".join(f"{name}: {value}" for name, value in case.items() if name not in ("label", "target", "batch")),
        ]
        for case in document["cases"]
    ]
    source = f"data:image/png;base64,{base64.b64encode(image).decode()}"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<img alt="Latency against throughput, distributions, and time by stage" src="{source}">',
        _table(columns, rows),
        "".join(f"<p class=note>{html.escape(line)}</p>" for line in said),
        "<h2>What was measured</h2>" + _table(["case", ""], cases),
        "<h2>How</h2>" + _table(["", ""], list(facts.items())),
    ]
    return PAGE.format(title=html.escape(title), body="\n".join(parts))


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 1200px; margin: 2rem auto; padding: 0 1rem; }}
img {{ width: 100%; height: auto; }}
table {{ border-collapse: collapse; width: 100%; margin: 1rem 0; display: block; overflow-x: auto; }}
th, td {{ text-align: left; padding: .35rem .7rem; border-bottom: 1px solid #e3e8ec; }}
td {{ font-variant-numeric: tabular-nums; }}
.note {{ background: #fff6e0; padding: .4rem .8rem; border-left: 4px solid #c9a227; }}
</style></head><body>
{body}
</body></html>
"""
