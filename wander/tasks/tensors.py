"""Tensors in, tensors out: for outputs without a meaning of their own, as those of an adapter that stands alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wander.errors import InputError
from wander.signature import Arrays, TensorSpec
from wander.tasks._sequences import numbers
from wander.tasks.base import Calls, Item, Operation, Task, array_schema


class Tensors(Task, Operation):
    """Runs every graph whose inputs an item brings, in their exact shapes, and gives its outputs as nested lists."""

    summary: ClassVar[str] = "The model's tensors as they are"
    operations: ClassVar[Mapping[str, str]] = {"": summary}
    output: ClassVar[str] = "tokens"

    def operation(self, name: str) -> Operation:
        return self

    def preprocess(self, item: Item) -> Calls:
        graphs = {name: graph.signature.inputs for name, graph in self.manifest.graphs.items()}
        known = {spec.name for inputs in graphs.values() for spec in inputs}
        if unknown := sorted(set(item) - known):
            raise InputError(f"{unknown[0]} is no input of this model; its inputs are {', '.join(known)}", unknown[0])
        given = {name for name, value in item.items() if value is not None}
        # Whoever brings a part of a graph's inputs means that graph; whoever brings nothing, the first.
        meant = {name: inputs for name, inputs in graphs.items() if given & {spec.name for spec in inputs}}
        for inputs in (meant or graphs).values():
            for spec in inputs:
                if spec.name not in given:
                    raise InputError(f"{spec.name} is missing", spec.name)
        return {name: {spec.name: tensor(item[spec.name], spec) for spec in specs} for name, specs in meant.items()}

    def postprocess(self, item: Item, outputs: Mapping[str, Arrays]) -> dict[str, Any]:
        return {"outputs": {name: value.tolist() for arrays in outputs.values() for name, value in arrays.items()}}

    def schema(self) -> dict[str, Any]:
        inputs = [spec for graph in self.manifest.graphs.values() for spec in graph.signature.inputs]
        required = [spec.name for spec in inputs] if len(self.manifest.graphs) == 1 else []
        properties = {spec.name: array_schema(spec) for spec in inputs}
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    def example(self, calls: Mapping[str, Arrays]) -> dict[str, Any]:
        """The tensors themselves, floats rounded."""
        arrays = {name: value for graph in calls.values() for name, value in graph.items()}
        return {
            name: (np.round(value.astype(np.float64), 3) if value.dtype.kind == "f" else value).tolist()
            for name, value in arrays.items()
        }


def tensor(value: object, spec: TensorSpec) -> NDArray[Any]:
    """Nested lists or an array as one item of a tensor. Raises InputError that names it."""
    array: NDArray[Any] = numbers(value, spec.name)
    if "int" in spec.dtype:
        whole = np.asarray(value)
        if whole.dtype.kind not in "iu":
            raise InputError(f"{spec.name} must hold whole numbers", spec.name)
        array = whole
    array = array.astype(spec.dtype, copy=False)
    spec.check(array[None])
    return array


plugin = Tensors
