"""The retrieval index: a large one in this process, many clients at one behind a server, and kills while it is written.

    python -m benchmarks.index [--part fill|build|search|exact|compare|http|kills ...] [--models MODELS]
        [--captions FILE.csv] [--out benchmarks/results/index.json]

`MODELS` has a bundle that embeds texts (`wander export zoo/flickr8k-image-text`), and `FILE.csv` a column `caption` of
real ones. What is not measured in this run stays in the results as it was. The large index (fill, build, search,
exact, compare) is kept in `--folder`, where a second run finds it again. With `--out`, both forms are written.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import _index_http as http
from benchmarks import _index_large as large
from benchmarks.results import circumstances, publish, published, table

PARTS = ("fill", "build", "search", "exact", "compare", "http", "kills")
LARGE = PARTS[:5]


def main(
    models: Annotated[Path, typer.Option(help="Folder with a bundle that embeds texts.")] = Path("models"),
    captions: Annotated[Path | None, typer.Option(help="CSV file with a column `caption`.")] = None,
    part: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(PARTS)}; default: all.")] = None,
    folder: Annotated[Path, typer.Option(help="Where the indexes are kept.")] = Path("benchmark-indexes"),
    items: Annotated[int, typer.Option(help="Of the large index.")] = 1_000_000,
    dimension: Annotated[int, typer.Option(help="Of the large index.")] = 3584,
    texts: Annotated[int, typer.Option(help="Captions behind the server.")] = 100_000,
    clients: Annotated[int, typer.Option(help="At once.")] = 16,
    seconds: Annotated[float, typer.Option(help="Of writing and reading at once.")] = 60,
    kills: Annotated[int, typer.Option(help="Times that the server is killed.")] = 20,
    out: Annotated[Path | None, typer.Option(help="Also write FILE.md and FILE.json.")] = None,
) -> None:
    """Exits 1 if an answer was wrong, or a write was lost."""
    about = circumstances("benchmarks.index", ("numpy", "faiss-cpu", "fastapi"))
    known = published(out)
    found: dict[str, Any] = {name: known[name] for name in ("large", "http", "kills") if name in known}
    parts = part or PARTS

    def step(text: str) -> None:
        typer.echo(text, err=True)

    if set(LARGE) & set(parts):
        measured = found.setdefault("large", {})
        if "fill" in parts:
            measured |= large.fill(folder / "large", items, dimension, step)
        if "build" in parts:
            measured |= large.build(folder / "large")
        if "search" in parts:
            measured |= large.search(folder / "large", dimension, step)
        if "exact" in parts:
            measured |= large.exact(folder / "large", dimension)
        if "compare" in parts:
            measured |= large.compare(folder / "large", items, dimension)
    if {"http", "kills"} & set(parts):
        if captions is None:
            raise typer.BadParameter("the parts http and kills need --captions")
        words = http.captions(captions, texts)
        for name in ("http", "kills"):
            shutil.rmtree(folder / name, ignore_errors=True)
        if "http" in parts:
            found["http"] = asyncio.run(http.together(models, folder / "http", words, clients, seconds, step))
        if "kills" in parts:
            found["kills"] = asyncio.run(http.kills(models, folder / "kills", words, kills, step))
    publish("The retrieval index", about, report(found), found, out)
    if found.get("http", {}).get("wrong_count") or found.get("kills", {}).get("wrong"):
        raise typer.Exit(1)


def report(found: dict[str, Any]) -> list[str]:
    body = []
    if (one := found.get("large")) and "items" in one:
        body += [f"## {one['items']:,} vectors of {one['dimension']}", f"In one process. {one['recipe']}.", facts(one)]
    if one := found.get("http"):
        before = one["before"]
        how = f"{before['mode']}, recall {before['recall']} of {before['recall_of']}" if before["recall"] else "exact"
        body += [
            f"## {one['items']:,} captions behind a server, {one['clients']} clients for {one['seconds']:.0f} s",
            "Real captions, and pairs of them where there are too few, each embedded by the served model (vectors of "
            f"{before['dimension']}); "
            f"{one['fill_s']:.0f} s to fill in bulks of {http.BULK}. Search was {how}. "
            f"{one['requests_a_second']:.0f} requests a second; clients and server share the cores. "
            f"{one['wrong_count']} wrong answers or lost writes. Searches by mode: "
            + ", ".join(f"{mode} {count}" for mode, count in one["modes"].items()),
            table(
                ["request", "requests", "p50 ms", "p99 ms"],
                [[k, v["requests"], f"{v['p50_ms']:.1f}", f"{v['p99_ms']:.1f}"] for k, v in one["kinds"].items()],
            ),
        ]
    if one := found.get("kills"):
        body += [
            f"## kill -9 while four clients write, {one['kills']} times",
            f"{one['acknowledged_items']:,} items were acknowledged in groups of {http.GROUP}; after every start, "
            f"{len(one['wrong'])} of them were lost, changed or half there.",
        ]
    return body


def facts(one: dict[str, Any]) -> str:
    """Whatever was measured."""
    seconds = {
        "fill_s": "fill, s (writes of 1,000, each on the disk)",
        "build_s": "build, s (half the cores, at low priority)",
        "cold_open_s": "cold open, s",
        "cold_open_to_approximate_s": "cold open to approximate search, s",
    }
    searches = {"approximate": "approximate", "approximate_cold": "approximate, files not in memory", "exact": "exact"}
    rows = [[text, f"{one[name]:.2f}"] for name, text in seconds.items() if name in one]
    rows += [
        [f"{text}: p50 / p99 of top-10, ms ({s['searches']} searches)", f"{s['p50_ms']:.1f} / {s['p99_ms']:.1f}"]
        for name, text in searches.items()
        for s in [one.get(name)]
        if s
    ]
    if "recall_told" in one:
        rows.append(["recall@10 that it tells of itself", f"{one['recall_told'][0]:.3f} of {one['recall_told'][1]}"])
    if "recall_at_10" in one:
        rows.append(["recall@10 of queries, against exact", f"{one['recall_at_10']:.3f}"])
    for name, text in (("bytes_an_item", "without"), ("bytes_an_item_with_structure", "with")):
        if name in one:
            rows.append([f"bytes an item on the disk, {text} the structure", f"{one[name]:,.0f}"])
    if "anonymous_mb" in one:
        rows.append(["anonymous memory of the process, MB", f"{one['anonymous_mb']:.0f}"])
    return table(["", ""], rows)


if __name__ == "__main__":
    typer.run(main)
