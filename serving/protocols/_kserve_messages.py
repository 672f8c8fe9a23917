"""Tensors in the messages of the Open Inference Protocol to arrays and back. Knows no call and no server."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.answers import Inference
from serving.protocols import _kserve_pb2 as pb
from serving.protocols._tensors import NAME_OF, dtype_of, from_bytes, shape_of, shaped
from wander.errors import InputError

CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
"""Datatype -> the field for its elements. FP16 has none, and can only be raw."""


@dataclass
class Asked:
    """What a request asks.

    Attributes:
        raw: whether its tensors came as bytes; the answer's then go alike.
    """

    inputs: dict[str, NDArray[Any]]
    outputs: list[str] | None
    parameters: dict[str, Any]
    raw: bool


def decode(request: pb.ModelInferRequest) -> Asked:
    """Raises InputError that names the field."""
    raw = list(request.raw_input_contents)
    if not request.inputs:
        raise InputError("there must be at least one input", "inputs")
    if raw and len(raw) != len(request.inputs):
        raise InputError(f"there are {len(request.inputs)} inputs, but {len(raw)} raw contents", "raw_input_contents")
    inputs: dict[str, NDArray[Any]] = {}
    for index, given in enumerate(request.inputs):
        try:
            if given.name in inputs:
                raise InputError(f"{given.name} is given twice", "name")
            inputs[given.name] = _array(given, raw[index] if raw else None)
        except InputError as error:
            raise error.within(f"inputs[{index}]") from None
    names = [output.name for output in request.outputs]
    for index, output in enumerate(request.outputs):
        if names.index(output.name) != index:
            raise InputError(f"{output.name} is asked for twice", f"outputs[{index}].name")
        for unknown in ("classification", "shared_memory_region"):
            if values_of(output.parameters).get(unknown):
                raise InputError(f"{unknown} is not offered here", f"outputs[{index}].parameters.{unknown}")
    return Asked(inputs, names or None, values_of(request.parameters), bool(raw))


def encode(result: Inference, request: pb.ModelInferRequest, *, raw: bool) -> pb.ModelInferResponse:
    """The answer to a request; with raw contents if it is asked for, or if one of its tensors can only be raw."""
    response = pb.ModelInferResponse(model_name=request.model_name, model_version=result.model.version, id=request.id)
    for name, value in request.parameters.items():
        response.parameters[name].CopyFrom(value)
    response.parameters["adapter"].string_param = result.model.adapter
    raw = raw or any(NAME_OF[array.dtype] not in CONTENTS for array in result.outputs.values())
    for name, array in result.outputs.items():
        datatype = NAME_OF[array.dtype]
        output = response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        if raw:
            response.raw_output_contents.append(array.tobytes())
        else:
            getattr(output.contents, CONTENTS[datatype]).extend(array.reshape(-1).tolist())
    return response


def values_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as Python has them. Raises InputError for one without a value."""
    values = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is None:
            raise InputError("a parameter is a string, a number, true or false", f"parameters.{name}")
        values[name] = getattr(parameter, choice)
    return values


def _array(given: pb.ModelInferRequest.InferInputTensor, raw: bytes | None) -> NDArray[Any]:
    dtype, shape = dtype_of(given.datatype), shape_of(list(given.shape))
    count = math.prod(shape)
    if "shared_memory_region" in given.parameters:
        raise InputError("shared memory is not offered here", "parameters.shared_memory_region")
    if raw is not None:
        if given.HasField("contents"):
            raise InputError("contents and raw contents cannot stand together", "contents")
        if len(raw) != count * dtype.itemsize:
            raise InputError(f"shape {shape} needs {count * dtype.itemsize} raw bytes, not {len(raw)}", "shape")
        return from_bytes(raw, dtype, shape)
    if (field := CONTENTS.get(given.datatype)) is None:
        raise InputError(f"{given.datatype} goes into raw_input_contents; there is no field for it", "contents")
    elements = getattr(given.contents, field)
    if len(elements) != count:
        raise InputError(f"shape {shape} needs {count} elements in {field}, not {len(elements)}", f"contents.{field}")
    try:
        return shaped(np.array(elements, dtype), shape)
    except OverflowError as error:
        raise InputError(f"{error}", f"contents.{field}") from error
