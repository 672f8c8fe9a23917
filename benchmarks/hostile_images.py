"""What a server answers to hostile pictures: damaged ones, bombs, files that are no pictures; and that it stays up.

    python -m benchmarks.hostile_images [--out benchmarks/results/hostile_images.json]

The pictures are those of the tests. A real server answers for a tiny food model with random weights; every picture is
sent by an HTTP client, as a form. After each the process must live and `/livez` say 200, and at the end a good picture
must be classified. A status other than the one that the picture deserves fails the run: exit 1.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import httpx
import torch
import typer

from benchmarks import _hostile
from benchmarks._hostile import cell
from benchmarks._models import SEED, write_checkpoint
from benchmarks.results import circumstances, publish, table
from benchmarks.startup import Running, ServerFailed, server
from export.compose import compose
from export.options import Options
from export.pipeline import export
from tests.hostile import Case
from tests.tasks.hostile_images import hostile_images
from wander.backbones.bert_vit import BertViT
from wander.console import progress

TEXT = "word1 word2"
OPTIONS = ("--max-body-bytes", str(64 << 20), "--log-level", "error")
QUICK = ("PNG as it is saved", "PNG of 0 x 10 pixels", "PNG that claims 50,000 x 50,000", "PDF")


def publish_model(models: Path) -> None:
    """A food model of a few kilobytes."""
    torch.manual_seed(SEED)
    config, adapter, head = BertViT.example()
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "checkpoint"
        write_checkpoint(BertViT.build(config, adapter, head), checkpoint)
        export(compose(checkpoint), models / "food", Options(max_batch_size=2))


def ask(client: httpx.Client, running: Running, case: Case) -> dict[str, Any]:
    """Sends one picture."""
    form: dict[str, Any] = {"files": {"image": ("picture", case.data)}, "data": {"text": TEXT}}
    return {"picture": case.name, **_hostile.ask(client, running, case, "/v1/food", **form)}


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Four pictures: does it work?")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the report here, as .json and as .md.")] = None,
) -> None:
    """The answer to every hostile picture."""
    about = circumstances("benchmarks.hostile_images", ("pillow", "fastapi", "uvicorn", "httpx"))
    cases = [case for case in hostile_images() if not quick or case.name in QUICK]
    good = next(case for case in cases if case.expected == "ok")
    try:
        with tempfile.TemporaryDirectory() as scratch, progress() as display:
            publish_model(Path(scratch) / "models")
            with server(Path(scratch) / "models", *OPTIONS) as running, httpx.Client(timeout=60) as client:
                rows = [ask(client, running, case) for case in display.track(cases, description="pictures")]
                last = ask(client, running, good)
    except ServerFailed as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    wrong = [row for row in [*rows, last] if row["status"] != row["deserved"] or not row["alive"]]
    counts = Counter(row["status"] for row in rows)
    lived = sum(row["alive"] for row in rows)
    shares = ", ".join(f"{number} got {status}" for status, number in sorted(counts.items()))
    lines = [
        [
            cell(f"{row['picture']} ({row['note']})" if row["note"] else row["picture"]),
            cell(row["detail"]) or "labels",
            row["status"],
            f"{1000 * row['seconds']:.0f}",
        ]
        for row in rows
    ]
    body = [
        f"{len(rows)} pictures sent to `POST /v1/food` of one server: {shares}; {len(wrong)} of these are not what the "
        f"picture deserves. The process lived and `/livez` said 200 after {lived} of {len(rows)}; at the end a good "
        f"picture got {last['status']}. Slowest answer: {max(row['seconds'] for row in rows):.1f} s.",
        table(["picture", "answer", "status", "ms"], lines, texts=2),
    ]
    publish("Hostile pictures", about, body, {"answers": rows, "afterwards": last}, out)
    if wrong:
        typer.echo(f"error: {len(wrong)} answers are wrong: {', '.join(row['picture'] for row in wrong)}", err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
