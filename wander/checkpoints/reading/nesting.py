"""How deep the tree of a checkpoint is. Without recursion, so that no tree, however deep, can overflow the stack."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from wander.checkpoints.reading.stubs import Stub
from wander.errors import CheckpointError

MAX_DEPTH = 200


@dataclass
class _Visit:
    identity: int
    children: Iterator[object]
    height: int = 0


def check_depth(root: object) -> None:
    """Visits every part once, however often it is shared, and ignores references back to an enclosing part.

    Raises:
        CheckpointError: containers are nested more than `MAX_DEPTH` deep.
    """
    heights = {id(root): 0}
    path = [_Visit(id(root), _parts(root))]
    while path:
        visit = path[-1]
        for child in visit.children:
            if id(child) in heights:
                visit.height = max(visit.height, heights[id(child)])
            else:
                heights[id(child)] = 0
                path.append(_Visit(id(child), _parts(child)))
                break
        else:
            path.pop()
            heights[visit.identity] = visit.height + 1
            if path:
                path[-1].height = max(path[-1].height, visit.height + 1)
        if len(path) + visit.height > MAX_DEPTH:
            raise too_deep()


def too_deep() -> CheckpointError:
    """The error for a tree that is nested deeper than any model."""
    return CheckpointError(f"containers are nested more than {MAX_DEPTH} deep; no model is, so the file is refused")


def _parts(value: object) -> Iterator[object]:
    """The containers directly inside `value`."""
    inside: Iterator[object]
    if isinstance(value, dict):
        inside = chain(value.keys(), value.values())
    elif isinstance(value, list | tuple | set | frozenset):
        inside = iter(value)
    elif isinstance(value, Stub):
        inside = iter((value.args, value.kwargs, value.state, value.items, value.mapping))
    else:
        inside = iter(())
    return (part for part in inside if isinstance(part, dict | list | tuple | set | frozenset | Stub))
