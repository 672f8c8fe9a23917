"""What commands share at the terminal: results to stdout, progress to stderr and only where a person looks on."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

stdout = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
stderr = Console(stderr=True, highlight=False)


def print_json(value: object) -> None:
    """One JSON object on one line of stdout, for `--json`."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """A table on stdout; numbers are printed as `number` does."""
    table = Table(*columns, title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(number(cell) if isinstance(cell, float) else str(cell) for cell in row))
    stdout.print(table)


def print_fields(fields: Mapping[str, Any]) -> None:
    """Names and values, a line each, on stdout."""
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        stdout.print(f"[bold]{name:<{width}}[/bold]  ", end="")
        stdout.print(number(value) if isinstance(value, float) else str(value), markup=False)


def peak_memory() -> int:
    """The most bytes of memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def number(value: float) -> str:
    """Four significant digits."""
    return f"{value:.4g}"


def progress() -> Progress:
    """A progress display on stderr; draws nothing if that is no terminal."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=stderr,
        transient=True,
        disable=not stderr.is_terminal,
    )
