"""A whole module that was pickled: its weights under torch's names, and the sizes that its parts remember.

Works on stubs alone; the classes are never imported. A module is a stub with `_parameters` and `_modules`; that covers
ModuleList, ParameterList (the newer ones may hold whole modules) and DataParallel, which is left out of the names.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from wander.checkpoints.reading.nesting import MAX_DEPTH
from wander.checkpoints.reading.policy import shown
from wander.checkpoints.reading.stubs import Stub
from wander.errors import CheckpointError

_MAX_MODULES = 100_000
_PLAIN = (bool, int, float, str, type(None))


def is_module(value: object) -> bool:
    """True for the stub of a `torch.nn.Module`."""
    if not isinstance(value, Stub):
        return False
    attributes = value.attributes
    return isinstance(attributes.get("_parameters"), dict) and isinstance(attributes.get("_modules"), dict)


def walk(root: Stub) -> Iterator[tuple[str, Stub]]:
    """All modules with their dotted paths, in torch's order; the root's path is empty, a DataParallel root is skipped.

    Raises:
        CheckpointError: a module contains itself, or there are more than any model has.
    """
    pending: list[tuple[str, Stub, tuple[int, ...]]] = [("", _unwrapped(root), ())]
    seen = 0
    while pending:
        path, module, above = pending.pop()
        seen += 1
        if id(module) in above or len(above) > MAX_DEPTH or seen > _MAX_MODULES:
            raise CheckpointError(f"the module {shown(path)} contains itself, or the model has more parts than any has")
        yield path, module
        inside = (*above, id(module))
        children: list[tuple[str, Stub, tuple[int, ...]]] = []
        for name, child in _table(module, "_modules"):
            if isinstance(child, Stub) and is_module(child):
                children.append((_join(path, name), child, inside))
            elif child is not None:
                raise CheckpointError(
                    f"the module {shown(_join(path, name))} has no parameters table; the file is damaged"
                )
        pending.extend(reversed(children))


def weights(root: Stub) -> dict[str, torch.Tensor]:
    """What the module's `state_dict()` holds: parameters, then persistent buffers, then the same of its children.

    Raises:
        CheckpointError: a parameter or buffer that is no tensor; or as `walk` does.
    """
    found: dict[str, torch.Tensor] = {}
    for path, module in walk(root):
        skipped = module.attributes.get("_non_persistent_buffers_set")
        for table in ("_parameters", "_buffers"):
            for name, tensor in _table(module, table):
                if tensor is None or (table == "_buffers" and isinstance(skipped, set) and name in skipped):
                    continue
                if not isinstance(tensor, torch.Tensor):
                    raise CheckpointError(f"{shown(_join(path, name))} is no tensor; it was never initialised")
                found[_join(path, name)] = tensor
    return found


def attributes(root: Stub) -> dict[str, dict[str, object]]:
    """The plain attributes of each module by its path, with its class under `__class__`. Raises as `walk` does."""
    return {
        path: {
            **{name: value for name, value in module.attributes.items() if _is_plain(value)},
            "__class__": module.name.rsplit(".", 1)[-1],
        }
        for path, module in walk(root)
    }


def _unwrapped(module: Stub) -> Stub:
    """The module inside of DataParallel and its like, which hold nothing but `module`."""
    inner = module.attributes.get("_modules")
    if isinstance(inner, dict) and inner.keys() == {"module"} and not module.attributes.get("_parameters"):
        child = inner["module"]
        if isinstance(child, Stub) and is_module(child):
            return child
    return module


def _table(module: Stub, name: str) -> Iterator[tuple[str, object]]:
    table = module.attributes.get(name)
    return (
        ((key, value) for key, value in table.items() if isinstance(key, str)) if isinstance(table, dict) else iter(())
    )


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(isinstance(item, _PLAIN) for item in value)
    return isinstance(value, _PLAIN)
