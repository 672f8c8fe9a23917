"""A virtual environment for every peer, made once, outside the repository."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SYSTEM_PYTHON = Path("/usr/bin/python3.11")
"""pytriton embeds the Python of the distribution; the others take any."""


class EnvironmentFailed(Exception):
    """What pip, or the lack of an interpreter, said."""


def environment(name: str, folder: Path) -> Path:
    """The interpreter of the environment `folder/name`, with what `name.requirements.txt` pins.

    Raises EnvironmentFailed.
    """
    requirements = HERE / f"{name}.requirements.txt"
    pins = hashlib.sha256(requirements.read_bytes()).hexdigest()
    python, made = folder / name / "bin" / "python", folder / name / "pins"
    if made.exists() and made.read_text(encoding="ascii") == pins:
        return python
    base = SYSTEM_PYTHON if name == "pytriton" else Path(sys.executable)
    if not base.exists():
        raise EnvironmentFailed(f"{base} is not there; run: apt install python3.11 python3.11-venv")
    print(f"installing {requirements.name}", file=sys.stderr, flush=True)
    _call(base, "-m", "venv", "--clear", folder / name)
    _call(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements)
    made.write_text(pins, encoding="ascii")
    return python


def _call(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        *_, last = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise EnvironmentFailed(last)
