"""Applies the exact rewrites that a host offers. What they are is the host's business."""

from __future__ import annotations

from wander.backbones import Host


def fold(host: Host) -> list[str]:
    """Applies all folds of the host, in place, so that a large model is never there twice. Returns their names."""
    applied = []
    for rewrite in host.folds():
        rewrite.apply()
        applied.append(rewrite.name)
    return applied
