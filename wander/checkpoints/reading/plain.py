"""Options as plain values: what the authors stored beside the weights, without stubs. Knows no names of options."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath

import torch

from wander.checkpoints.reading.nesting import MAX_DEPTH, too_deep
from wander.checkpoints.reading.stubs import GlobalRef, Stub
from wander.errors import CheckpointError

_MAX_VALUES = 100_000


def plain(value: object) -> object:
    """`value` with paths as text, enum members and the like as the value they stand for, objects as their attributes.

    Classes, functions, dtypes and objects without attributes become their names, a part that contains itself becomes
    `"..."`; tensors and arrays stay as they are. Parts that are shared come out as copies.

    Raises:
        CheckpointError: more values or deeper nesting than options ever have.
    """
    return _Conversion().convert(value)


@dataclass
class _Conversion:
    values: int = 0
    path: list[int] = field(default_factory=list)

    def convert(self, value: object) -> object:
        self.values += 1
        if self.values > _MAX_VALUES:
            raise CheckpointError(f"the stored options hold more than {_MAX_VALUES} values; they are refused")
        if isinstance(value, GlobalRef):
            return value.name
        if isinstance(value, torch.dtype):
            return str(value)
        if not isinstance(value, dict | list | tuple | set | frozenset | Stub):
            return value
        if id(value) in self.path:
            return "..."
        if len(self.path) >= MAX_DEPTH:
            raise too_deep()
        self.path.append(id(value))
        try:
            return self.stub(value) if isinstance(value, Stub) else self.container(value)
        finally:
            self.path.pop()

    def container(self, value: object) -> object:
        match value:
            case dict():
                return {self.key(key): self.convert(item) for key, item in value.items()}
            case tuple():
                return tuple(self.convert(item) for item in value)
            case set() | frozenset():
                return sorted((self.convert(item) for item in value), key=str)
            case list():
                return [self.convert(item) for item in value]
        return value

    def key(self, key: object) -> object:
        converted = self.convert(key)
        return converted if isinstance(converted, str | int | float | bytes | tuple | None) else str(converted)

    def stub(self, stub: Stub) -> object:
        if stub.name.startswith("pathlib."):
            return _path(stub)
        if stub.attributes:
            return self.container(stub.attributes)
        if stub.mapping:
            return self.container(stub.mapping)
        if stub.items:
            return self.container(stub.items)
        match stub.args:
            case (str() | int() | float() as only,):
                return only
            case (str(kind), int(index)) if stub.name == "torch.device":
                return f"{kind}:{index}"
        return {} if stub.name == "argparse.Namespace" else stub.name


def _path(stub: Stub) -> str:
    kind = PureWindowsPath if "Windows" in stub.name else PurePosixPath
    return str(kind(*(part for part in stub.args if isinstance(part, str))))
