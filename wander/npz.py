""".npz files from strangers: arrays of numbers (and of text, if asked for), and never more memory than the limit says.

numpy allocates what a header claims before it reads, and fails at strange headers in many ways; so they are read here,
in the one form that numpy writes. Nothing is unpickled.
"""

from __future__ import annotations

import ast
import io
import math
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from wander.errors import InputError, MalformedBody, TooLarge

MAX_ARRAYS = 64
MAX_DIMENSIONS = 8
MAX_HEADER = 4096
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""What numpy writes. The others take memory by what the file says."""
NUMBERS = re.compile(r"[<>|=]?[biuf][0-9]{1,2}")
TEXTS = re.compile(r"[<>=]?U[0-9]{1,7}")


BROKEN = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError
)  # fmt: skip
"""What `zipfile` raises at a damaged file."""


def read_npz(body: bytes, max_bytes: int, texts: bool = False) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file by name; with `texts` also those of text.

    Raises TooLarge if they would take more than `max_bytes` unpacked, MalformedBody for anything that is not a zip of
    arrays of numbers, and InputError for an array without any.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            members = archive.infolist()
            if len(members) > MAX_ARRAYS:
                raise TooLarge(f"the .npz holds {len(members)} arrays; at most {MAX_ARRAYS} are read")
            if sum(member.file_size for member in members) > max_bytes:
                raise TooLarge(f"the .npz unpacks to more than {max_bytes} bytes")
            arrays: dict[str, NDArray[Any]] = {}
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name == member.filename or name in arrays:
                    raise MalformedBody(f"{member.filename!r} is not the name of one array in an .npz file")
                if member.compress_type not in COMPRESSIONS:
                    raise MalformedBody(f"{name} is compressed in a way that numpy does not write", name)
                with archive.open(member) as file:
                    arrays[name] = _read_npy(file.read(member.file_size + 1), name, texts)
            return arrays
    except BROKEN as error:
        raise MalformedBody(f"it is not a whole .npz file: {error}") from error


def read_npz_file(path: Path, max_bytes: int = 16 << 30) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz on disk. Raises InputError as `read_npz` does, also for a file that cannot be read."""
    try:
        body = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    return read_npz(body, max_bytes)


def _read_npy(data: bytes, name: str, texts: bool) -> NDArray[Any]:
    """One .npy file: its header must claim exactly the bytes that follow it."""
    file = io.BytesIO(data)
    try:
        shape, fortran, dtype = _read_header(file, texts)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise MalformedBody(f"{name} is not an array of numbers: {error}", name) from error
    rest = data[file.tell() :]
    if math.prod(shape) * dtype.itemsize != len(rest):
        raise MalformedBody(f"{name} claims shape {shape} of {dtype}, but brings {len(rest)} bytes", name)
    if not rest:
        raise InputError(f"{name} is empty, of shape {shape}", name)
    return np.frombuffer(rest, dtype).reshape(shape, order="F" if fortran else "C")


def _read_header(file: io.BytesIO, texts: bool) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    major, _ = npy.read_magic(file)
    size = int.from_bytes(file.read(2 if major == 1 else 4), "little")
    if size > MAX_HEADER:
        raise ValueError(f"its header has {size} bytes")
    match ast.literal_eval(file.read(size).decode("latin-1")):
        case {"descr": str(descr), "fortran_order": bool(fortran), "shape": tuple(shape)}:
            if not NUMBERS.fullmatch(descr) and not (texts and TEXTS.fullmatch(descr)):
                raise ValueError(f"it holds {descr!r}")
            if len(shape) > MAX_DIMENSIONS or not all(type(length) is int and length >= 0 for length in shape):
                raise ValueError(f"its shape is {shape}")
            return shape, fortran, np.dtype(descr)
    raise ValueError("its header does not tell dtype, order and shape")
