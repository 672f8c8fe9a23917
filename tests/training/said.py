"""A data set of the MSR-VTT layout: made-up captions of a few kinds of videos."""

from __future__ import annotations

import csv
from pathlib import Path

KINDS = ("a man plays a guitar", "two dogs run in the park", "somebody is cooking pasta", "a red car drives fast")
ENDS = ("", " slowly", " at night", " for a while", " and laughs")


def write_said(folder: Path, train: int = 12, valid: int = 6, test: int = 5) -> Path:
    """So many videos a split: four captions each to train on, five to test, of which the first asks."""
    folder.mkdir(parents=True)

    def captions(number: int, count: int) -> list[str]:
        return [f"{KINDS[number % len(KINDS)]}{ENDS[i]} number{number}" for i in range(count)]

    rows = [("train", f"video{i}") for i in range(train)] + [("validate", f"video{train + i}") for i in range(valid)]
    _write(
        folder / "msrvtt_captions_trainval.csv",
        [[name, i, split, 0, text] for n, (split, name) in enumerate(rows) for i, text in enumerate(captions(n, 4))],
    )
    tested = [(f"video{100 + i}", captions(i, 5)) for i in range(test)]
    _write(
        folder / "msrvtt_captions_1ka_test.csv",
        [[name, i, "test", 0, text] for name, own in tested for i, text in enumerate(own)],
    )
    _write(folder / "msrvtt_1ka_test.csv", [[name, own[0].upper()] for name, own in tested], ["video_id", "caption"])
    return folder


def _write(path: Path, rows: list[list[object]], columns: list[str] | None = None) -> None:
    columns = columns or ["video_id", "caption_index", "split", "category", "caption"]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
