"""Named tensors: what goes into a graph and what comes out. Knows no graph, no file and no HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, field_validator

from wander.errors import InputError

DType = Literal["float32", "float16", "bfloat16", "float64", "int64", "int32", "int8", "uint8", "bool"]
Arrays = Mapping[str, NDArray[Any]]

BATCH = "batch"
"""Name of the first dimension of every tensor of a signature."""


class TensorSpec(BaseModel):
    """One named tensor.

    `dims` holds sizes (int) and names of free dimensions (str). The first is always `"batch"`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    dtype: DType
    dims: tuple[int | str, ...]

    @field_validator("dims")
    @classmethod
    def _batch_first(cls, dims: tuple[int | str, ...]) -> tuple[int | str, ...]:
        if not dims or dims[0] != BATCH:
            raise ValueError(f'the first dimension must be "{BATCH}"')
        if any(isinstance(size, int) and size < 1 for size in dims):
            raise ValueError("sizes must be at least 1")
        return dims

    @property
    def item_dims(self) -> tuple[int | str, ...]:
        """Dimensions of one item, without the batch."""
        return self.dims[1:]

    def check(self, array: NDArray[Any]) -> None:
        """Raises InputError, naming this tensor, if a batch of items is not of this dtype and these dimensions."""
        if array.dtype != np.dtype(self.dtype):
            raise InputError(f"{self.name} must be {self.dtype}, not {array.dtype}", self.name)
        fits = array.ndim == len(self.dims)
        for size, actual in zip(self.dims, array.shape, strict=False):
            if size != actual and not isinstance(size, str):
                fits = False
        if not fits:
            wanted = ", ".join(str(size) for size in self.dims)
            raise InputError(f"{self.name} must have shape ({wanted}), not {array.shape}", self.name)


class Signature(BaseModel):
    """The inputs and outputs of one graph, in their order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def check(self, arrays: Arrays) -> int:
        """Checks a batch of inputs and returns its number of rows.

        Raises InputError, naming the tensor, for a missing, an unknown or a mis-shaped one, for tensors that disagree
        about a named dimension, and for an empty batch.
        """
        names = {spec.name for spec in self.inputs}
        if unknown := sorted(set(arrays) - names):
            raise InputError(f"unknown input {unknown[0]}; this graph takes {', '.join(sorted(names))}", unknown[0])
        sizes: dict[str, tuple[int, str]] = {}
        for spec in self.inputs:
            if spec.name not in arrays:
                raise InputError(f"{spec.name} is missing", spec.name)
            array = arrays[spec.name]
            spec.check(array)
            for dim, size in zip(spec.dims, array.shape, strict=True):
                if not isinstance(dim, str):
                    continue
                known, owner = sizes.setdefault(dim, (size, spec.name))
                if known != size:
                    raise InputError(f"{spec.name} has {dim} {size}, but {owner} has {known}", spec.name)
        rows = sizes[BATCH][0]
        if rows == 0:
            raise InputError("the batch is empty", self.inputs[0].name)
        return rows
