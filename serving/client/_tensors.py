"""Named tensors to the body of a KServe v2 inference and back, in JSON or with the binary tensor extension.

Knows no connection. Arrays of bfloat16 (`ml_dtypes`) are sent as BF16; what comes as BF16 is given as float32, which
holds it exactly.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.client._bodies import dumps
from wander.errors import InputError, ServiceError
from wander.signature import Arrays

DTYPES = {
    "BOOL": np.dtype("?"),
    **{f"INT{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"UINT{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
}
"""Datatype of the protocol -> dtype, as it is sent."""
DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}
BYTES, BF16 = "BYTES", "BF16"
TEXTS = "OSU"
"""Kinds of arrays whose elements are bytes or text."""


def encode(
    inputs: Arrays,
    outputs: Sequence[str] | None = None,
    binary: bool = True,
    parameters: Mapping[str, Any] | None = None,
    request_id: str | None = None,
) -> tuple[bytes, int | None]:
    """The body of an inference, and how many bytes of it are JSON if tensors follow.

    Args:
        outputs: which are wanted; none for all.
        binary: whether tensors are sent, and asked for, as they lie in memory.

    Raises InputError that names the tensor which cannot be sent.
    """
    wanted = dict(parameters or {})
    if not outputs and binary:
        wanted.setdefault("binary_data_output", True)
    heads, raws = [], []
    for name, array in inputs.items():
        datatype = _datatype(name, array)
        head: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": datatype}
        if binary:
            raws.append(_raw(array, datatype))
            head["parameters"] = {"binary_data_size": len(raws[-1])}
        else:
            head["data"] = _listed(name, array, datatype)
        heads.append(head)
    request: dict[str, Any] = {"inputs": heads}
    if request_id is not None:
        request["id"] = request_id
    if wanted:
        request["parameters"] = wanted
    if outputs:
        request["outputs"] = [{"name": name, "parameters": {"binary_data": binary}} for name in outputs]
    header = dumps(request).encode()
    return b"".join((header, *raws)), len(header) if raws else None


def decode(body: bytes, header_length: int | None = None) -> dict[str, NDArray[Any]]:
    """The outputs of an answer by name; BYTES are arrays of bytes objects.

    Args:
        header_length: how many bytes are JSON, if tensors follow.

    Raises ServiceError for an answer that does not hold what it says.
    """
    size = len(body) if header_length is None else header_length
    if not 0 <= size <= len(body):
        raise ServiceError(f"the answer claims {size} bytes of JSON, but has {len(body)}")
    try:
        answer = json.loads(body[:size])
        rest = memoryview(body)[size:]
        arrays: dict[str, NDArray[Any]] = {}
        for output in answer["outputs"]:
            name, datatype, shape = output["name"], output["datatype"], tuple(output["shape"])
            if any(type(size) is not int or size < 0 for size in shape):
                raise ValueError(f"{name} cannot have the shape {shape}")
            length = (output.get("parameters") or {}).get("binary_data_size")
            if length is None:
                arrays[name] = _from_list(output["data"], datatype, shape)
            elif type(length) is not int or not 0 <= length <= len(rest):
                raise ValueError(f"{name} has {length} bytes, but {len(rest)} are left")
            else:
                arrays[name] = _from_raw(rest[:length], datatype, shape)
                rest = rest[length:]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, struct.error) as error:
        raise ServiceError(f"the answer to an inference is broken: {error!r}") from error
    if len(rest):
        raise ServiceError(f"the answer to an inference is broken: {len(rest)} bytes belong to no output")
    return arrays


def _datatype(name: str, array: NDArray[Any]) -> str:
    if array.dtype.kind in TEXTS:
        return BYTES
    if array.dtype.name == "bfloat16":
        return BF16
    datatype = DATATYPES.get(array.dtype.newbyteorder("<"))
    if datatype is None:
        raise InputError(f"{name} is of {array.dtype}, which KServe v2 has no datatype for", name)
    return datatype


def _raw(array: NDArray[Any], datatype: str) -> bytes:
    """C order, little-endian."""
    if datatype == BYTES:
        elements = [e if isinstance(e, bytes) else str(e).encode() for e in array.ravel().tolist()]
        return b"".join(struct.pack("<I", len(element)) + element for element in elements)
    return (array if datatype == BF16 else array.astype(DTYPES[datatype], copy=False)).tobytes()


def _listed(name: str, array: NDArray[Any], datatype: str) -> list[Any]:
    flat: list[Any] = array.ravel().tolist()
    if datatype == BF16:
        raise InputError(f"{name} is bfloat16, which can only be sent with binary=True", name)
    try:
        return [e.decode() if isinstance(e, bytes) else str(e) for e in flat] if datatype == BYTES else flat
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is no UTF-8 and can only be sent with binary=True: {error}", name) from error


def _from_list(data: list[Any], datatype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    if datatype == BYTES:
        return _objects([str(element).encode() for element in np.ravel(np.array(data, object))], shape)
    dtype = DTYPES[datatype].newbyteorder("=")
    if dtype.kind in "iu" and any(type(number) is not int for number in np.ravel(np.array(data, object))):
        raise ValueError(f"{datatype} must be whole numbers")
    return np.array(data, dtype).reshape(shape)


def _from_raw(raw: memoryview, datatype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """A copy, aligned and in the byte order of this machine."""
    if datatype == BYTES:
        elements, at = [], 0
        while at < len(raw):
            (size,) = struct.unpack_from("<I", raw, at)
            at += 4 + size
            elements.append(bytes(raw[at - size : at]))
        if at != len(raw):
            raise ValueError(f"an element ends {at - len(raw)} bytes after its tensor")
        return _objects(elements, shape)
    if datatype == BF16:
        high = np.frombuffer(raw, "<u2").astype(np.uint32)
        return (high << 16).view(np.float32).reshape(shape)
    if datatype == "BOOL":
        return np.frombuffer(raw, np.uint8).astype(np.bool_).reshape(shape)
    dtype = DTYPES[datatype]
    return np.frombuffer(raw, dtype).astype(dtype.newbyteorder("=")).reshape(shape)


def _objects(elements: list[bytes], shape: tuple[int, ...]) -> NDArray[Any]:
    if len(elements) != math.prod(shape):
        raise ValueError(f"{len(elements)} elements do not make the shape {shape}")
    array = np.empty(len(elements), object)
    array[:] = elements
    return array.reshape(shape)
