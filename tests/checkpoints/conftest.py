"""Checkpoint files for the tests: real ones where they are at hand, and hand-made ones of every container."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ORACLES = Path(__file__).resolve().parents[2].parent / "shared" / "oracles"

CONTAINERS = ("pickle", "zip", "legacy")

_MAGIC = 0x1950A86A20F9469CFC6C
_WATCHED = ("import", "exec", "compile", "os.", "subprocess.", "socket.", "ctypes.", "pickle.find_class", "shutil.")


def oracle(name: str) -> Path:
    """A file of the reference data; the test is skipped where it is absent."""
    path = ORACLES / name
    if not path.exists():
        pytest.skip(f"the reference data are not here: {path}")
    return path


def oracle_checkpoints() -> list[str]:
    """Names of all checkpoints of the reference data, without those that hold none."""
    found = [path for suffix in ("pt", "pth") for path in ORACLES.glob(f"**/*.{suffix}")]
    return sorted(str(path.relative_to(ORACLES)) for path in found)


def contain(kind: str, pickled: bytes, storages: dict[str, bytes] | None = None) -> bytes:
    """A checkpoint file of one of `CONTAINERS` around a pickle; storages only in a zip."""
    if kind == "pickle":
        return pickled
    if kind == "legacy":
        system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
        before = b"".join(pickle.dumps(part, 2) for part in (_MAGIC, 1001, system))
        return before + pickled + pickle.dumps([], 2)
    entries = {"data.pkl": pickled, "byteorder": b"little", "version": b"3\n"}
    entries |= {f"data/{key}": data for key, data in (storages or {}).items()}
    return archive({f"model/{name}": data for name, data in entries.items()})


def archive(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file of these entries."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as written:
        for name, data in entries.items():
            written.writestr(name, data)
    return buffer.getvalue()


def saved(value: object, *, legacy: bool = False) -> bytes:
    """The file that torch.save writes of a value."""
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def same(left: object, right: object) -> bool:
    """Equal in structure, types of containers, dtypes and bits; NaN equals NaN, and an OrderedDict is a dict."""
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        return left.dtype == right.dtype and left.shape == right.shape and _bits(left) == _bits(right)
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    if isinstance(left, dict) and isinstance(right, dict):
        return list(map(repr, left)) == list(map(repr, right)) and all(
            same(*pair) for pair in zip(left.values(), right.values(), strict=True)
        )
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return (
            isinstance(left, list) == isinstance(right, list)
            and len(left) == len(right)
            and all(same(*pair) for pair in zip(left, right, strict=True))
        )
    if isinstance(left, float | complex):
        return repr(left) == repr(right)
    return type(left) is type(right) and left == right


def _bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def text(value: str) -> bytes:
    """Text, as an opcode."""
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def named(module: str, qualname: str) -> bytes:
    """STACK_GLOBAL, which takes any text for a name."""
    return text(module) + text(qualname) + b"\x93"


def storage(key: str = "0", numel: int = 4, kind: str = "FloatStorage", location: str = "cpu") -> bytes:
    """A persistent id of a storage, as opcodes."""
    return b"(" + text("storage") + named("torch", kind) + text(key) + text(location) + number(numel) + b"tQ"


def number(value: int) -> bytes:
    """An integer, as an opcode."""
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def tensor(of: bytes, offset: int = 0, shape: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,)) -> bytes:
    """A tensor over a storage, as a whole pickle."""
    sizes, steps = (b"(" + b"".join(map(number, extents)) + b"t" for extents in (shape, stride))
    arguments = of + number(offset) + sizes + steps + b"\x89}"
    return b"\x80\x02}" + text("fc.weight") + named("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tRs."


def legacy_file(pickled: bytes, keys: list[object], raw: bytes) -> bytes:
    """A legacy file with storages: the object, the keys, the bytes behind."""
    return contain("legacy", pickled)[: -len(pickle.dumps([], 2))] + pickle.dumps(keys, 2) + raw


def legacy_storage(view: bytes = b"N", key: str = "0", numel: int = 4) -> bytes:
    """A persistent id of the legacy format, as opcodes."""
    return storage(key, numel)[:-2] + view + b"tQ"


RAW = struct.pack("<q4f", 4, 1, 2, 3, 4)
"""One storage of the legacy format: its length, four floats."""


class Calling:
    """Pickles as a call of anything."""

    def __init__(self, function: Callable[..., Any], *args: object, state: object = None) -> None:
        self.reduction = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduction


class Watch:
    """What the interpreter itself reports of imports, executed code, processes and the like."""

    def __init__(self) -> None:
        self.on = False
        self.events: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.on and event.startswith(_WATCHED) and event not in ("os.listdir", "os.scandir"):
            self.events.append(f"{event} {arguments[:1]}")

    def __enter__(self) -> list[str]:
        self.events = []
        self.on = True
        return self.events

    def __exit__(self, *_: object) -> None:
        self.on = False


@pytest.fixture(scope="session")
def watch() -> Iterator[Watch]:
    """A context in which every import, execution or process is recorded (an audit hook cannot be taken off again)."""
    watching = Watch()
    yield watching
    watching.on = False
