"""Processor, memory and graphics cards, as the operating system tells them. Runs no graph."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from serving.cores import usable_cores
from wander.engines._cpuinfo import CPUINFO, read_cpuinfo

MEMINFO = Path("/proc/meminfo")
PATIENCE_S = 20.0

INSTRUCTIONS = {
    "AVX2": ("avx2",),
    "AVX-512": ("avx512f",),
    "VNNI": ("avx512_vnni", "avx_vnni"),
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "AMX": ("amx_tile",),
    "NEON": ("asimd",),
    "SVE": ("sve",),
    "i8mm": ("i8mm",),
}
"""What arithmetic gains from -> the flags of the kernel, any of which says that it is there."""


def processor() -> dict[str, Any]:
    """Name, instruction sets, and how many cores there are, may be used, and are paid for.

    `usable` is what a server shares out among its engines: the cores it is bound to, within its container's quota.
    """
    name, flags = read_cpuinfo(_text(CPUINFO))
    return {
        "name": name,
        "instructions": [label for label, any_of in INSTRUCTIONS.items() if flags & set(any_of)],
        "cores": os.cpu_count() or 1,
        "bound": len(os.sched_getaffinity(0)),
        "usable": usable_cores(),
    }


def memory_bytes() -> dict[str, int]:
    """`total` and `available`; 0 where the kernel does not tell."""
    fields = {line.split(":")[0]: line.split()[1] for line in _text(MEMINFO).splitlines() if ":" in line}
    return {
        name: int(fields.get(key, 0)) * 1024 for name, key in (("total", "MemTotal"), ("available", "MemAvailable"))
    }


def gpus() -> tuple[list[dict[str, str]], str | None]:
    """NVIDIA's cards as their driver tells them, and why there are none if so."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return [], "nvidia-smi is not here: no NVIDIA driver, or a container without --gpus"
    fields = ("name", "driver_version", "memory.total", "compute_cap")
    command = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [], f"nvidia-smi does not answer: {error}"
    if done.returncode:
        return [], f"nvidia-smi fails: {' '.join((done.stdout + done.stderr).split())}"
    rows = [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    found = [dict(zip(fields, row, strict=True)) for row in rows if len(row) == len(fields)]
    return found, None if found else "nvidia-smi lists no card"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
