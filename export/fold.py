"""Applies the exact rewrites that a host offers. What they are is the host's business."""

from __future__ import annotations

from wander.backbones import Host


def fold(host: Host, *, narrowed: bool = False) -> list[str]:
    """Applies all folds of the host, in place, so that a large model is never there twice. Returns their names.

    narrowed: the graphs are to compute in less than float32, which leaves out the folds that need its range.
    """
    applied = []
    for rewrite in host.folds():
        if narrowed and rewrite.wide:
            continue
        rewrite.apply()
        applied.append(rewrite.name)
    return applied
