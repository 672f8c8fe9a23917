"""Requests of the Open Inference Protocol, as a client writes them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.protocols._tensors import NAMES

LENGTH = "Inference-Header-Content-Length"


def described(name: str, array: NDArray[Any]) -> dict[str, Any]:
    """A tensor without its data."""
    return {"name": name, "datatype": NAMES[array.dtype.name], "shape": list(array.shape)}  # type: ignore[index]


def as_json(arrays: dict[str, NDArray[Any]], nested: bool = False, **head: Any) -> dict[str, Any]:
    inputs = [
        {**described(name, array), "data": (array if nested else array.reshape(-1)).tolist()}
        for name, array in arrays.items()
    ]
    return {"inputs": inputs, **head}


def as_binary(arrays: dict[str, NDArray[Any]], **head: Any) -> tuple[bytes, int]:
    """A body, and how much of it is JSON."""
    inputs = [
        {**described(name, array), "parameters": {"binary_data_size": array.nbytes}} for name, array in arrays.items()
    ]
    text = json.dumps({"inputs": inputs, **head}).encode()
    return text + b"".join(array.tobytes() for array in arrays.values()), len(text)


def outputs_of(content: bytes, length: str | None) -> dict[str, NDArray[Any]]:
    """The tensors of an answer, binary or not."""
    size = len(content) if length is None else int(length)
    rest, arrays = content[size:], {}
    dtypes = {name: dtype for dtype, name in NAMES.items()}
    for one in json.loads(content[:size])["outputs"]:
        dtype = np.dtype(dtypes[one["datatype"]])
        if "data" in one:
            flat = np.array(one["data"], dtype)
        else:
            taken = one["parameters"]["binary_data_size"]
            flat, rest = np.frombuffer(rest[:taken], dtype), rest[taken:]
        arrays[one["name"]] = flat.reshape(one["shape"])
    assert not rest
    return arrays
