"""Runs a script of `benchmarks` as a person does, with warnings as errors."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", f"benchmarks.{module}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def quick(module: str, out: Path, *arguments: str) -> dict[str, Any]:
    """The JSON that a quick run writes."""
    done = run(module, *arguments, "--quick", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no terminal, no progress
    assert done.stdout == out.with_suffix(".md").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return content
