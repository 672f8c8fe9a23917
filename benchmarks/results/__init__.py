"""What the measurements said, and the form in which they say it: markdown for people, JSON for programs."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from serving.doctor.machine import processor


def circumstances(module: str, packages: Sequence[str]) -> dict[str, str]:
    """What has to be known of a run to repeat it. Names no machine and no folder but those on the command line."""
    cpu = processor()
    return {
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": f"{cpu['name']} ({', '.join(cpu['instructions'])}), {cpu['cores']} cores",
        "load average at the start": f"{os.getloadavg()[0]:.2f}",
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], texts: int = 1) -> str:
    """A markdown table; the first `texts` columns are text, the others are numbers to the right."""
    lines = [columns, [*["---"] * texts, *["---:"] * (len(columns) - texts)], *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def published(out: Path | None) -> dict[str, Any]:
    """The data that an earlier run left there as JSON; empty if there is none."""
    if out is None or not (file := out.with_suffix(".json")).exists():
        return {}
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def publish(
    title: str, about: Mapping[str, str], body: Sequence[str], data: Mapping[str, Any], out: Path | None
) -> None:
    """Markdown to stdout; with `out`, also to `out` with the suffix .md, and all data as JSON with the suffix .json."""
    facts = "; ".join(f"{name} {value}" for name, value in about.items() if name != "command")
    text = "\n\n".join([f"# {title}", f"`{about['command']}`", facts, *body]) + "\n"
    print(text, end="")
    if out is not None:
        out.with_suffix(".md").write_text(text, encoding="utf-8")
        content = json.dumps({"circumstances": about, **data}, indent=1, ensure_ascii=False, allow_nan=False)
        out.with_suffix(".json").write_text(content + "\n", encoding="utf-8")
