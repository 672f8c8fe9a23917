"""Tensors of the Open Inference Protocol (KServe v2), in JSON and in its binary extension, to arrays and back.

A body is JSON; with the binary extension the tensors follow as they lie in memory, little-endian and in the order of
the inputs. Arrays of the binary kind are views of the body. Knows no model, no route and no HTTP.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from serving.parsing import parse_json
from serving.service import check_finite
from wander.errors import InputError, MalformedBody
from wander.signature import Arrays, DType

NAMES: dict[DType, str] = {
    "float32": "FP32",
    "float16": "FP16",
    "bfloat16": "BF16",
    "float64": "FP64",
    "int64": "INT64",
    "int32": "INT32",
    "int8": "INT8",
    "uint8": "UINT8",
    "bool": "BOOL",
}
"""What the protocol calls the dtypes of a signature."""

DTYPES = {name: np.dtype(dtype).newbyteorder("<") for dtype, name in NAMES.items() if name != "BF16"}
"""Those that numpy has; no engine takes bfloat16 from it."""

NAME_OF = {dtype: name for name, dtype in DTYPES.items()}
_KINDS: dict[str, set[type]] = {"f": {int, float}, "i": {int}, "u": {int}, "b": {bool}}
"""Kind of a dtype -> the types of the JSON values that it takes."""

MAX_RANK = 32
PARAMETERS = (bool, int, float, str)


@dataclass
class Request:
    """What a body asks.

    Attributes:
        outputs: name -> whether it is wanted as binary data; None asks for all of them, as `binary` says.
        binary: how outputs are wanted of which nothing is said.
    """

    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, bool] | None = None
    binary: bool = False
    id: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)


def decode(body: bytes, header: int | None = None) -> Request:
    """Reads a request.

    Args:
        header: bytes of JSON before the binary data; None for a body that is JSON alone.

    Raises MalformedBody for what is no JSON, InputError that names the field for everything else.
    """
    if header is None:
        text: bytes | memoryview = body
        offset = None
    elif 0 <= header <= len(body):
        text, offset = memoryview(body)[:header], header
    else:
        raise MalformedBody(f"the JSON is announced with {header} bytes, but the body has {len(body)}")
    value = parse_json(text, "the body")
    if type(value) is not dict:
        raise InputError("the body must be a JSON object")
    given = value.get("inputs")
    if type(given) is not list or not given:
        raise InputError("inputs must be a list with at least one tensor", "inputs")
    inputs: dict[str, NDArray[Any]] = {}
    for index, one in enumerate(given):
        try:
            name, array, offset = _input(one, body, offset)
            if name in inputs:
                raise InputError(f"{name} is given twice", "name")
        except InputError as error:
            raise error.within(f"inputs[{index}]") from None
        inputs[name] = array
    if offset is not None and offset != len(body):
        raise InputError(f"{len(body) - offset} bytes follow after the last of the binary data that inputs announce")
    parameters = _parameters(value)
    binary = parameters.pop("binary_data_output", False)
    if type(binary) is not bool:
        raise InputError("binary_data_output must be true or false", "parameters.binary_data_output")
    request = Request(inputs, None, binary, value.get("id"), parameters)
    if request.id is not None and type(request.id) is not str:
        raise InputError("id must be a string", "id")
    if (wanted := value.get("outputs")) is not None:
        request.outputs = _outputs(wanted, binary)
    return request


def encode(outputs: Arrays, head: dict[str, Any], request: Request) -> tuple[bytes, int | None]:
    """A body that begins with the fields of `head`, and the bytes of JSON in it if binary data follow.

    Raises InputError for numbers that are not finite and are wanted as JSON, which cannot hold them.
    """
    described, blocks, texts = [], [], {}
    for name, array in outputs.items():
        one: dict[str, Any] = {"name": name, "datatype": NAME_OF[array.dtype], "shape": array.shape}
        array = np.ascontiguousarray(array)
        if request.binary if request.outputs is None else request.outputs[name]:
            one["parameters"] = {"binary_data_size": array.nbytes}
            blocks.append(array.data if array.size else b"")
        else:
            one["data"] = array.reshape(-1)
            texts[name] = array
        described.append(one)
    if texts:
        check_finite({"": texts})
    text = orjson.dumps(head | {"outputs": described}, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join([text, *blocks]), len(text)) if blocks else (text, None)


def dtype_of(name: object) -> np.dtype[Any]:
    """The dtype that the protocol calls so. Raises InputError, also for those that no model here takes."""
    if type(name) is str and (dtype := DTYPES.get(name)) is not None:
        return dtype
    if name in ("BYTES", "BF16"):
        raise InputError(f"no model here takes {name}; there are: {', '.join(DTYPES)}", "datatype")
    raise InputError(f"datatype must be one of: {', '.join(DTYPES)}", "datatype")


def shape_of(shape: Any) -> list[int]:
    """The shape, if it is one. Raises InputError."""
    if type(shape) is not list or len(shape) > MAX_RANK:
        raise InputError(f"shape must be a list of at most {MAX_RANK} sizes", "shape")
    for size in shape:
        if type(size) is not int or size < 0:
            raise InputError("shape must hold whole numbers that are not negative", "shape")
    return shape


def from_bytes(data: bytes | memoryview, dtype: np.dtype[Any], shape: list[int], offset: int = 0) -> NDArray[Any]:
    """A view of the bytes from an offset, which must hold as many as the shape needs. Raises InputError."""
    array = np.frombuffer(data, dtype, math.prod(shape), offset)
    if dtype.kind == "b" and array.view(np.uint8).max(initial=0) > 1:
        raise InputError("a BOOL is a byte that is 0 or 1")
    return shaped(array if array.flags.aligned else array.copy(), shape)


def shaped(array: NDArray[Any], shape: list[int]) -> NDArray[Any]:
    """The array in a shape of as many elements. Raises InputError if it is one that no array can have."""
    try:
        return array.reshape(shape)
    except (ValueError, OverflowError) as error:  # one side is 0, another beyond all bounds
        raise InputError(f"no tensor can have the shape {shape}", "shape") from error


def _input(given: Any, body: bytes, offset: int | None) -> tuple[str, NDArray[Any], int | None]:
    """Name and array of one input, and where the binary data of the next begin."""
    if type(given) is not dict:
        raise InputError("an input must be a JSON object")
    name = given.get("name")
    if type(name) is not str:
        raise InputError("name must be a string", "name")
    dtype, shape = dtype_of(given.get("datatype")), shape_of(given.get("shape"))
    count = math.prod(shape)
    size = _parameters(given).get("binary_data_size")
    if size is None:
        if "data" not in given:
            if "shared_memory_region" in _parameters(given):
                raise InputError("shared memory is not offered here", "parameters.shared_memory_region")
            raise InputError(f"{name} has no data", "data")
        return name, shaped(_from_json(given["data"], dtype, shape), shape), offset
    field = "parameters.binary_data_size"
    if "data" in given:
        raise InputError("data and binary_data_size cannot stand together", field)
    if offset is None:
        raise InputError("binary data need the header Inference-Header-Content-Length", field)
    if type(size) is not int or size != count * dtype.itemsize:
        raise InputError(f"{name} needs {count * dtype.itemsize} bytes for shape {shape}, not {size}", field)
    if size > len(body) - offset:
        raise InputError(f"{name} is announced with {size} bytes, but only {len(body) - offset} are left", field)
    return name, from_bytes(body, dtype, shape, offset), offset + size


def _from_json(data: Any, dtype: np.dtype[Any], shape: list[int]) -> NDArray[Any]:
    """Numbers, flat in row-major order or nested as the shape is. What they take is bounded by what was sent."""
    if type(data) is not list:
        raise InputError("data must be a list", "data")
    if list in (types := set(map(type, data))):
        data = _flattened(data, shape)
        types = set(map(type, data))
    if len(data) != (count := math.prod(shape)):
        raise InputError(f"shape {shape} needs {count} elements, not {len(data)}", "data")
    if not types <= _KINDS[dtype.kind]:
        raise InputError(f"data must hold {NAME_OF[dtype]} alone: {_WANTED[dtype.kind]}", "data")
    try:
        with np.errstate(over="ignore"):
            array = np.array(data, dtype)
    except OverflowError:
        array = None
    if array is None or (dtype.kind == "f" and not np.isfinite(array).all()):
        raise InputError(f"data holds numbers beyond what {NAME_OF[dtype]} can hold", "data")
    return array


_WANTED = {"f": "numbers", "i": "whole numbers", "u": "whole numbers", "b": "true or false"}


def _flattened(data: list[Any], shape: list[int]) -> list[Any]:
    """Raises InputError unless lists are nested as the shape says."""
    level = [data]
    for size in shape:
        if any(type(one) is not list or len(one) != size for one in level):
            raise InputError(f"data must be flat, or nested as the shape {shape} is", "data")
        level = list(chain.from_iterable(level))
    return level


def _outputs(wanted: Any, binary: bool) -> dict[str, bool] | None:
    """Outputs that are asked for; an empty list asks for all, as none does."""
    if type(wanted) is not list:
        raise InputError("outputs must be a list", "outputs")
    outputs: dict[str, bool] = {}
    for index, one in enumerate(wanted):
        where = f"outputs[{index}]"
        if type(one) is not dict or type(name := one.get("name")) is not str:
            raise InputError("an output must be a JSON object with a name", f"{where}.name")
        if name in outputs:
            raise InputError(f"{name} is asked for twice", f"{where}.name")
        try:
            parameters = _parameters(one)
        except InputError as error:
            raise error.within(where) from None
        for unknown in ("classification", "shared_memory_region"):
            if parameters.get(unknown):
                raise InputError(f"{unknown} is not offered here", f"{where}.parameters.{unknown}")
        outputs[name] = parameters.get("binary_data", binary)
        if type(outputs[name]) is not bool:
            raise InputError("binary_data must be true or false", f"{where}.parameters.binary_data")
    return outputs or None


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a JSON object, if it has any. Raises InputError."""
    parameters = given.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise InputError("parameters must be a JSON object", "parameters")
    for name, value in parameters.items():
        if not isinstance(value, PARAMETERS):
            raise InputError("a parameter is a string, a number, true or false", f"parameters.{name}")
    return parameters
