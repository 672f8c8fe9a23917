"""Our own interpreter of pickles. It imports nothing and calls nothing that a file names.

The parser of `pickletools` yields the opcodes; each of them here only pushes plain values, fills plain containers, or
hands a name with its arguments to `rebuild.call`. What comes out consists of dicts, lists, tuples, sets, text, numbers,
tensors, numpy arrays and inert `Stub`s. Bounded in opcodes, bytes, depth and copies. Knows nothing of files: tensors
come from storages, which the caller supplies.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from typing import IO, Any, Protocol, cast

import numpy as np
import torch

from wander.checkpoints.reading import arrays, rebuild
from wander.checkpoints.reading.nesting import check_depth
from wander.checkpoints.reading.pickle_stack import PickleStack
from wander.checkpoints.reading.policy import admit, shown
from wander.checkpoints.reading.stubs import GlobalRef, Stub, namespace
from wander.checkpoints.reading.tensors import CONSTANTS
from wander.errors import CheckpointError, UnsafeCheckpoint

__all__ = ["GlobalRef", "Stub", "load", "namespace"]

MAX_OPCODES = 5_000_000
MAX_BYTES = 1 << 30
_FREE_COPIES = 1 << 16

# What the parser raises on damaged input; the warning, where warnings are errors, is for a bad escape in a name.
_UNPARSABLE = (ValueError, OverflowError, DeprecationWarning)

PersistentLoad = Callable[[object], object]


class ByteSource(Protocol):
    """A file, or anything that is read like one."""

    def read(self, n: int = ..., /) -> bytes:
        """At most `n` bytes."""

    def readline(self) -> bytes:
        """The bytes up to the next newline, with it."""

    def tell(self) -> int:
        """The current position."""


def load(source: ByteSource | bytes, persistent_load: PersistentLoad | None = None) -> object:
    """Reads one pickle and leaves `source` behind it.

    Args:
        source: the bytes, or a file positioned at the first opcode. A file must not allocate more than it holds when
            more is asked for (`io.BytesIO` and `mmap` do not).
        persistent_load: gives what a persistent id (mostly a storage's) stands for; None where none may occur.

    Raises:
        UnsafeCheckpoint: it asks for something that no checkpoint needs; the message names it. Nothing was run.
        CheckpointError: it is damaged, truncated, not a pickle, or beyond the bounds.
    """
    root = _Machine(io.BytesIO(source) if isinstance(source, bytes) else source, persistent_load).run()
    check_depth(root)
    return root


class _Machine(PickleStack):
    def __init__(self, source: ByteSource, persistent_load: PersistentLoad | None) -> None:
        super().__init__()
        self.source = source
        self.start = source.tell()
        self.persistent_load = persistent_load
        self.copied = 0

    def run(self) -> object:
        opcodes = enumerate(pickletools.genops(cast(IO[bytes], self.source)))
        while True:
            try:
                count, (opcode, argument, _) = next(opcodes)
            except _UNPARSABLE as error:
                raise CheckpointError(f"the pickle is damaged or truncated ({shown(str(error))})") from error
            if count >= MAX_OPCODES or self.source.tell() - self.start > MAX_BYTES:
                raise CheckpointError(
                    f"the pickle has more than {MAX_OPCODES} opcodes or {MAX_BYTES} bytes; no model has"
                )
            if opcode.name == "STOP":
                return self.pop()
            try:
                _OPCODES[opcode.name](self, argument)
            except UnsafeCheckpoint:
                raise
            except CheckpointError as error:
                raise CheckpointError(f"{error}{self.whereabouts()}") from error

    def spend(self, amount: int) -> None:
        """Copies may not add up to more than what was read: pickling never makes more of them."""
        self.copied += amount
        if self.copied > self.source.tell() - self.start + _FREE_COPIES:
            raise CheckpointError(
                "the pickle copies the same data over and over; no model does, so the file is refused"
            )

    def protocol(self, version: int) -> None:
        if version > 5:
            raise CheckpointError(f"the pickle has protocol {version}, which this version does not read")

    def refer(self, module: object, qualname: object) -> None:
        if not isinstance(module, str) or not isinstance(qualname, str):
            raise CheckpointError("the pickle is damaged: a class is named by something that is no text")
        name = admit(module, qualname)
        self.stack.append(CONSTANTS.get(name, GlobalRef(name)))

    def refer_by_text(self, argument: str) -> None:
        module, _, qualname = argument.partition(" ")
        self.refer(module, qualname)

    def refer_by_stack(self) -> None:
        qualname, module = self.pop(), self.pop()
        self.refer(module, qualname)

    def call(self, callee: object, args: object, kwargs: object = None) -> None:
        if isinstance(callee, Stub):
            raise UnsafeCheckpoint(
                f"the checkpoint calls an object of {shown(callee.name)}; it was refused, nothing was run"
            )
        if not isinstance(callee, GlobalRef) or not isinstance(args, tuple) or not isinstance(kwargs, dict | None):
            raise CheckpointError("the pickle is damaged: it calls something that is no class")
        named = {str(key): value for key, value in kwargs.items()} if kwargs else {}
        self.spend(len(named))
        self.stack.append(rebuild.call(callee.name, args, named, self.spend))

    def reduce(self, _: object) -> None:
        args, callee = self.pop(), self.pop()
        self.call(callee, args)

    def new_with_names(self, _: object) -> None:
        kwargs, args, callee = self.pop(), self.pop(), self.pop()
        self.call(callee, args, kwargs)

    def instantiate(self, argument: str) -> None:
        args = self.pop_mark()
        self.refer_by_text(argument)
        self.call(self.pop(), tuple(args))

    def instantiate_by_stack(self, _: object) -> None:
        callee, *args = self.pop_mark() or [None]
        self.call(callee, tuple(args))

    def build(self, _: object) -> None:
        state = self.pop()
        match self.top():
            case Stub() as stub:
                stub.state = state
            case np.ndarray() as array:
                arrays.fill(array, state, self.spend)
            case dict() | list() | set() | torch.Tensor():
                pass  # attributes on a plain container or a tensor, such as `_metadata`: not kept
            case _:
                raise CheckpointError("the pickle is damaged: it restores something that has no state")

    def persistent(self, _: object) -> None:
        if self.persistent_load is None:
            raise CheckpointError("the pickle refers to data outside of it, which a bare pickle does not have")
        self.stack.append(self.persistent_load(self.pop()))

    def refuse_extension(self, code: int) -> None:
        raise UnsafeCheckpoint(
            f"the checkpoint asks for the copyreg extension {code}; it was refused and nothing was run"
        )

    def refuse_outside(self, _: object) -> None:
        raise CheckpointError("the pickle refers to data outside of it in a form that torch does not write")


_LITERALS = (
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE "
    "SHORT_BINUNICODE BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8"
).split()

_OPCODES: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(_LITERALS, _Machine.push),
    "PROTO": _Machine.protocol,
    "FRAME": lambda machine, _: None,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push(set()),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "MARK": _Machine.mark,
    "TUPLE": lambda machine, _: machine.close(tuple),
    "LIST": lambda machine, _: machine.close(list),
    "DICT": lambda machine, _: machine.close_dict(),
    "FROZENSET": lambda machine, _: machine.close(lambda items: frozenset(map(rebuild.as_key, items))),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_mark()),
    "ADDITEMS": lambda machine, _: machine.add_items(machine.pop_mark()),
    "SETITEM": lambda machine, _: machine.set_item(),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
    "POP": lambda machine, _: machine.discard(),
    "POP_MARK": lambda machine, _: machine.discard_mark(),
    "DUP": lambda machine, _: machine.push(machine.top()),
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.refer_by_text,
    "STACK_GLOBAL": lambda machine, _: machine.refer_by_stack(),
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "NEWOBJ_EX": _Machine.new_with_names,
    "INST": _Machine.instantiate,
    "OBJ": _Machine.instantiate_by_stack,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
    "PERSID": _Machine.refuse_outside,
    "NEXT_BUFFER": _Machine.refuse_outside,
    "READONLY_BUFFER": _Machine.refuse_outside,
    "EXT1": _Machine.refuse_extension,
    "EXT2": _Machine.refuse_extension,
    "EXT4": _Machine.refuse_extension,
}
