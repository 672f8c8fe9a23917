"""What a server answers to hostile videos: damaged ones, bombs, files that are no videos; and that it stays up.

    python -m benchmarks.hostile_videos [--out benchmarks/results/hostile_videos]

The videos are those of the tests. A real server answers for a tiny text-video model with random weights, whose experts
are colours and motion; every video is sent by an HTTP client, as a form. After each the process must live and `/livez`
say 200, its memory is read, and at the end a good video must be embedded. A status other than the one that the video
deserves fails the run: exit 1.
"""

from __future__ import annotations

import io
import re
import tempfile
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import av
import httpx
import numpy as np
import typer

from benchmarks import _hostile
from benchmarks._hostile import cell
from benchmarks.results import circumstances, publish, table
from benchmarks.startup import Running, ServerFailed, server
from export.compose import compose
from export.options import Options
from export.pipeline import export
from tests.extractors.hostile_videos import hostile_videos
from tests.extractors.models import checkpoint
from tests.hostile import Case
from wander.console import progress
from wander.errors import TooLarge

EXTRACTORS = {"colours": {"kind": "frame_colours"}, "motion": {"kind": "frame_motion"}}
OPTIONS = ("--log-level", "error", "--timeout-ms", "120000")
QUICK = ("mp4 as it is saved", "MP4 cut after 30%", "two hours", "HTML")


def publish_model(models: Path) -> None:
    """A text-video model of a few kilobytes."""
    with tempfile.TemporaryDirectory() as scratch:
        made = checkpoint(Path(scratch) / "checkpoint", EXTRACTORS)
        export(compose(made), models / "clips", Options(max_batch_size=2))


def long_videos() -> list[Case]:
    """The most work that is taken on, and a little more."""
    return [
        Case("63 seconds of 1,920 x 1,080 (30 a second)", full_hd(1900), "ok", "nearly all that is allowed"),
        Case("70 seconds of 1,920 x 1,080", full_hd(2100), TooLarge, "more than is allowed, told on the way"),
    ]


def full_hd(number: int) -> bytes:
    """Noise that is the same in every picture."""
    stream, noise = io.BytesIO(), np.random.default_rng(0).integers(90, 166, (1080, 1920, 3), np.uint8)
    frame = av.VideoFrame.from_ndarray(noise, format="rgb24").reformat(format="yuv420p")
    with av.open(stream, "w", format="mp4") as out:
        sight: Any = out.add_stream("libx264", rate=30)
        sight.width, sight.height, sight.pix_fmt = 1920, 1080, "yuv420p"
        sight.options = {"preset": "ultrafast", "threads": "1", "crf": "40"}
        for place in range(number):
            frame.pts, frame.time_base = place, Fraction(1, 30)
            out.mux(sight.encode(frame))
        out.mux(sight.encode(None))
    return stream.getvalue()


def memory(running: Running) -> tuple[int, int]:
    """MB that the server holds, and the most that it held."""
    said = Path(f"/proc/{running.process.pid}/status").read_text()
    held, most = (int(re.findall(rf"{name}:\s+(\d+) kB", said)[0]) // 1024 for name in ("VmRSS", "VmHWM"))
    return held, most


def ask(client: httpx.Client, running: Running, case: Case) -> dict[str, Any]:
    """Sends one video."""
    row = _hostile.ask(client, running, case, "/v1/text-video/embed", files={"video": ("video.mp4", case.data)})
    return {"video": case.name, **row, "memory_mb": memory(running)[0]}


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Four videos: does it work?")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the report here, as .json and as .md.")] = None,
) -> None:
    """The answer to every hostile video."""
    about = circumstances("benchmarks.hostile_videos", ("av", "fastapi", "uvicorn", "httpx"))
    cases = [case for case in hostile_videos() if not quick or case.name in QUICK]
    good = next(case for case in cases if case.expected == "ok")
    try:
        with tempfile.TemporaryDirectory() as scratch, progress() as display:
            publish_model(Path(scratch) / "models")
            cases += [] if quick else long_videos()
            with server(Path(scratch) / "models", *OPTIONS) as running, httpx.Client(timeout=120) as client:
                before = memory(running)[0]
                rows = [ask(client, running, case) for case in display.track(cases, description="videos")]
                last = ask(client, running, good)
                most = memory(running)[1]
    except ServerFailed as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    wrong = [row for row in [*rows, last] if row["status"] != row["deserved"] or not row["alive"]]
    counts = Counter(row["status"] for row in rows)
    lived = sum(row["alive"] for row in rows)
    shares = ", ".join(f"{number} got {status}" for status, number in sorted(counts.items()))
    slowest = max(rows, key=lambda row: row["seconds"])
    lines = [
        [
            cell(f"{row['video']} ({row['note']})" if row["note"] else row["video"]),
            cell(row["detail"]) or "a vector",
            row["status"],
            f"{1000 * row['seconds']:.0f}",
        ]
        for row in rows
    ]
    body = [
        f"{len(rows)} videos sent to `POST /v1/text-video/embed` of one server: {shares}; {len(wrong)} of these are "
        f"not what the video deserves. The process lived and `/livez` said 200 after {lived} of {len(rows)}; at the "
        f"end a good video got {last['status']}. Slowest answer: {slowest['seconds']:.1f} s ({slowest['video']}). "
        f"Memory of the process: {before} MB before, {last['memory_mb']} MB afterwards, {most} MB at most.",
        table(["video", "answer", "status", "ms"], lines, texts=2),
    ]
    memories = {"before_mb": before, "after_mb": last["memory_mb"], "most_mb": most}
    publish("Hostile videos", about, body, {"answers": rows, "afterwards": last, "memory": memories}, out)
    if wrong:
        typer.echo(f"error: {len(wrong)} answers are wrong: {', '.join(row['video'] for row in wrong)}", err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
