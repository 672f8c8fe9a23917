"""Where engines keep what they made on this machine and can make again: compiled plans, timings, choices."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wander.bundle import DATA_SUFFIX
from wander.files import sha256


def cache_folder() -> Path:
    """`WANDER_CACHE`, or `wander` in the user's cache folder. Whatever is in it may be removed at any time."""
    if own := os.environ.get("WANDER_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wander"


def graph_sha256(graph: Path) -> str:
    """Of a graph's file, and of that with its weights if they stand apart."""
    beside = graph.with_name(graph.name + DATA_SUFFIX)
    return digest({"graph": sha256(graph), "weights": sha256(beside) if beside.exists() else ""})


def digest(facts: Mapping[str, Any]) -> str:
    """Equal facts have equal digests, in whatever order."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
