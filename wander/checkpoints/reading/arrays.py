"""numpy arrays and scalars of plain numeric dtypes, from their bytes. Arrays of objects, records or text are refused.

An array comes in two steps, as numpy pickles it: an empty one, which others may refer to already, and its contents.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import cast

import numpy as np

from wander.checkpoints.reading.stubs import GlobalRef, Stub
from wander.errors import CheckpointError

_NUMERIC = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248]|c8|c16)")
_TEXT = re.compile(r"[<>|=]?[SU]\d{1,6}")

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]
Spend = Callable[[int], None]


def empty(args: tuple[object, ...]) -> Array:
    """`(numpy.ndarray, (0,), b"b")`: the empty array that `fill` gives its contents."""
    match args:
        case (GlobalRef("numpy.ndarray"), (0,), "b" | b"b"):
            return np.empty(0, np.uint8)
    raise _malformed()


def fill(array: Array, state: object, spend: Spend) -> None:
    """Gives an array from `empty` its contents: `(version, shape, dtype, Fortran order, bytes)`.

    Raises:
        CheckpointError: another form, a dtype that is not numeric, or bytes that are not as many as the shape needs.
    """
    match state:
        case (int(), tuple(shape), Stub() as dtype, bool(fortran), str() | bytes() as raw) if array.size == 0:
            data = _bytes(raw)
            spend(len(data))
            kind = _dtype(dtype, _NUMERIC)
            extents = _extents(shape, kind, data)
            array.__setstate__((1, extents, kind, cast("np.bool", fortran), data))
        case _:
            raise _malformed()


def from_buffer(args: tuple[object, ...], spend: Spend) -> Array:
    """`(bytes, dtype, shape, order)`: an array of pickle protocol 5. Raises as `fill` does."""
    match args:
        case (bytes() | bytearray() as data, Stub() as dtype, tuple(shape), "C" | "F" as order):
            spend(len(data))
            kind = _dtype(dtype, _NUMERIC)
            extents = _extents(shape, kind, data)
            return np.frombuffer(data, kind).reshape(extents, order=order).copy(order="K")
    raise _malformed()


def scalar(args: tuple[object, ...], spend: Spend) -> object:
    """`(dtype, bytes)`: the Python number (or text) of a numpy scalar."""
    match args:
        case (Stub() as dtype, str() | bytes() as raw):
            data = _bytes(raw)
            spend(len(data))
            kind = _dtype(dtype, _NUMERIC, _TEXT)
            if kind.itemsize != len(data):
                raise _malformed()
            if kind.kind == "S":
                return data.rstrip(b"\0")
            if kind.kind == "U":
                return _text(data, big_endian=kind.str[0] == ">")
            return np.frombuffer(data, kind)[0].item()
    raise _malformed()


def _dtype(stub: Stub, *patterns: re.Pattern[str]) -> np.dtype[np.generic]:
    """The dtype of `numpy.dtype(code, ...)` with the byte order from its state."""
    match stub:
        case Stub(name="numpy.dtype", args=(str(code), *_)):
            if not any(pattern.fullmatch(code) for pattern in patterns):
                raise CheckpointError(f"a numpy array of dtype {code[:20]!a} is not supported, only numbers are")
            kind: np.dtype[np.generic] = np.dtype(code)
            match stub.state:
                case None:
                    return kind
                case (int(), "<" | ">" | "|" | "=" as order, None, None, None, *_):
                    return kind.newbyteorder(order)
    raise _malformed()


def _extents(shape: tuple[object, ...], kind: np.dtype[np.generic], data: bytes | bytearray) -> tuple[int, ...]:
    """`shape`, if the data are exactly what it needs."""
    extents = [extent for extent in shape if type(extent) is int and 0 <= extent < 2**32]
    sound = len(extents) == len(shape) <= 32 and math.prod(extent for extent in extents if extent) < 2**48
    if not sound or math.prod(extents) * kind.itemsize != len(data):
        raise CheckpointError("a numpy array has other bytes than its shape needs; the file is damaged")
    return tuple(extents)


def _text(data: bytes, big_endian: bool) -> str:
    # Not by numpy, which lets invalid characters through to the interpreter's own checks.
    try:
        return data.decode("utf-32-be" if big_endian else "utf-32-le").rstrip("\0")
    except UnicodeDecodeError as error:
        raise CheckpointError("a numpy text is not valid Unicode; the file is damaged") from error


def _bytes(raw: str | bytes) -> bytes:
    """Python 2 wrote bytes as text, one character a byte."""
    try:
        return raw.encode("latin-1") if isinstance(raw, str) else raw
    except UnicodeEncodeError as error:
        raise _malformed() from error


def _malformed() -> CheckpointError:
    return CheckpointError("a numpy array is described in a form that numpy does not write; the file is damaged")
