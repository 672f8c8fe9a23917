"""Checkpoints in their authors' formats, read without running anything that is in them.

Finds the weights, the options stored beside them, and the sizes that a whole pickled module remembers. Knows torch's
habits of saving, but no model: which name is which weight is for the adapters and backbones to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from wander.checkpoints.reading import archive, modules
from wander.checkpoints.reading.plain import plain
from wander.checkpoints.reading.policy import shown
from wander.checkpoints.reading.stubs import Stub
from wander.errors import CheckpointError

_WEIGHT_KEYS = ("model", "state_dict", "module", "model_state_dict")
_OPTION_KEYS = ("args", "config", "opt")
_PARALLEL = "module."
_MAX_WRAPPERS = 4
_SHOWN_KEYS = 12


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as it was read.

    Attributes:
        path: the file.
        format: `zip`, `legacy`, `safetensors` or `pickle`.
        root: dicts, lists, tuples, sets, text, numbers, CPU tensors, numpy arrays, and inert `Stub`s for all else.
    """

    path: Path
    format: str
    root: object


def read(path: Path) -> Checkpoint:
    """Reads a checkpoint. Nothing in it is run; its tensors are mapped from the file, which must stay as it is.

    Raises:
        UnsafeCheckpoint: it asks for something that no checkpoint needs; the message names it.
        CheckpointError: it is missing, damaged, incomplete or of an unknown kind; the message says which.
    """
    try:
        kind, root = archive.open_file(Path(path))
    except CheckpointError as error:
        raise type(error)(f"{path}: {error}") from error
    return Checkpoint(Path(path), kind, root)


def state_dict(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The weights by name, in the order of the file, shapes and dtypes as stored.

    They are the root itself, or under `model`, `state_dict`, `module` or `model_state_dict`: a dict of tensors or a
    whole pickled module, whose non-persistent buffers are left out as torch does. A `module.` that all names begin with
    (from DataParallel) is taken off.

    Raises:
        CheckpointError: no weights are found, or more than one set of them; the message lists the keys.
    """
    found = _weights(checkpoint.root)
    try:
        weights = modules.weights(found) if isinstance(found, Stub) else _tensors(found or {})
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error
    if not weights:
        raise CheckpointError(f"{checkpoint.path}: no weights found; it holds {_describe(checkpoint.root)}")
    if all(name.startswith(_PARALLEL) for name in weights):
        return {name.removeprefix(_PARALLEL): tensor for name, tensor in weights.items()}
    return weights


def options(checkpoint: Checkpoint) -> dict[str, object]:
    """What the authors stored under `args`, `config` or `opt`, as a plain dict; `{}` if there is nothing.

    Objects (argparse namespaces, configuration classes) become dicts of their attributes, paths become text.

    Raises:
        CheckpointError: more values or deeper nesting than options ever have.
    """
    root = checkpoint.root
    for key in _OPTION_KEYS:
        found = plain(root[key]) if isinstance(root, dict) and key in root else None
        if isinstance(found, dict) and found:
            return {str(name): value for name, value in found.items()}
    return {}


def module_attributes(checkpoint: Checkpoint) -> dict[str, dict[str, object]]:
    """What the parts of a whole pickled module remember, by dotted path; `{}` for a checkpoint without one.

    Attributes are numbers, text, None, and lists or tuples of these, e.g. `{"self_attn": {"num_heads": 3, ...}}`; the
    name of the class is under `__class__`. The root's path is `""`.

    Raises:
        CheckpointError: a module contains itself.
    """
    found = _weights(checkpoint.root)
    return modules.attributes(found) if isinstance(found, Stub) else {}


def _weights(root: object, wrappers: int = _MAX_WRAPPERS) -> Stub | dict[object, object] | None:
    """The module or the dict that holds the weights, if there is one."""
    if isinstance(root, Stub):
        if modules.is_module(root):
            return root
        root = root.mapping  # a dict of a class of its own
    if not isinstance(root, dict) or wrappers == 0:
        return None
    for key in _WEIGHT_KEYS:
        found = _weights(root.get(key), wrappers - 1)
        if found is not None:
            return found
    return root if _holds_tensors(root) else None


def _holds_tensors(value: object) -> bool:
    return isinstance(value, dict) and any(
        isinstance(name, str) and isinstance(item, torch.Tensor) for name, item in value.items()
    )


def _tensors(mapping: dict[object, object]) -> dict[str, torch.Tensor]:
    """The tensors of a state dict; its other entries (`_extra_state`, counters) are no weights."""
    others = [str(name) for name, item in mapping.items() if _holds_tensors(item) or modules.is_module(item)]
    if others:
        listed = shown(", ".join(others))
        raise CheckpointError(
            f"there are weights beside the top-level ones, under {listed}; save one set of weights only"
        )
    return {name: item for name, item in mapping.items() if isinstance(name, str) and isinstance(item, torch.Tensor)}


def _describe(root: object) -> str:
    if isinstance(root, Stub):
        return f"an object of {shown(root.name)}"
    if not isinstance(root, dict):
        return f"a {type(root).__name__}"
    keys = [shown(key, 40) if isinstance(key, str) else type(key).__name__ for key in root]
    return (
        f"the keys {', '.join(keys[:_SHOWN_KEYS])}{', ...' if len(keys) > _SHOWN_KEYS else ''}" if keys else "nothing"
    )
