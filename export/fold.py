"""Applies the exact rewrites that a host offers. What they are is the host's business."""

from __future__ import annotations

import copy

from wander.backbones import Host


def folded(host: Host) -> tuple[Host, list[str]]:
    """A copy of the host with all its folds applied, and their names. The host itself is left as it is."""
    rewritten = copy.deepcopy(host)
    applied = []
    for fold in rewritten.folds():
        fold.apply()
        applied.append(fold.name)
    return rewritten, applied
