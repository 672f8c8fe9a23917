"""Items made of one feature sequence a modality, for the hosts that take fixed lengths and know no masks.

A shorter sequence is padded at its end as in training, a longer one is an error, and a missing modality does what the
manifest declares, never something else.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wander.errors import BundleError, InputError
from wander.manifest import EXPLAIN, MAIN, Manifest, first_problem
from wander.signature import Arrays, TensorSpec
from wander.tasks import _explanations as explanations
from wander.tasks.base import Calls, Item, Operation, Task, array_schema

EXAMPLE_ROWS = 2


class SequencePreprocessing(BaseModel):
    """`preprocessing` of a manifest.

    Attributes:
        missing: per modality, what happens if an item lacks it: `error` (also if it is not named here), or `padding`:
            a sequence of padding alone, as in training.
        padding: per modality, the row (D values) that fills a short sequence; zeros if it is not named here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    missing: dict[str, Literal["error", "padding"]] = Field(default_factory=dict)
    padding: dict[str, tuple[float, ...]] = Field(default_factory=dict)


class SequenceTask(Task, Operation):
    """A task whose graph `model` takes float32 sequences (batch, ℓ_m, D_m).

    An item that asks for an explanation goes to the graph `explain` instead, which answers the same and says why.
    """

    options: ClassVar[tuple[str, ...]] = (explanations.FIELD,)
    explains: ClassVar[bool] = True

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        super().__init__(manifest, folder)
        try:
            declared = SequencePreprocessing.model_validate(manifest.preprocessing)
        except ValidationError as error:
            raise BundleError(f"preprocessing.{first_problem(error)}") from error
        graph = manifest.graphs.get(MAIN)
        if graph is None:
            raise BundleError(f"a bundle for {manifest.task} needs a graph called model")
        self.inputs = graph.signature.inputs
        self.can_explain = explanations.check_graph(manifest)
        self.targets: tuple[str, ...] = ()
        """Labels that a request may name to have their scores explained."""
        self.missing = declared.missing
        self.rows: dict[str, NDArray[np.float32]] = {}
        for spec in self.inputs:
            row = np.zeros(self.width(spec), np.float32)
            if spec.name in declared.padding:
                if len(declared.padding[spec.name]) != row.size:
                    raise BundleError(f"preprocessing.padding.{spec.name} must hold {row.size} values")
                row = np.asarray(declared.padding[spec.name], np.float32)
            self.rows[spec.name] = row
        names = set(self.rows)
        if explanations.FIELD in names:
            raise BundleError(f"no input can be called {explanations.FIELD}: it is a field of the request")
        for field in ("missing", "padding"):
            if unknown := sorted(set(getattr(declared, field)) - names):
                raise BundleError(f"preprocessing.{field} names {unknown[0]}, which is no input of the graph")

    def operation(self, name: str) -> Operation:
        return self

    def preprocess(self, item: Item) -> Calls:
        if unknown := sorted(set(item) - set(self.rows) - {explanations.FIELD}):
            known = ", ".join(self.rows)
            raise InputError(f"{unknown[0]} is not a field of this model; it takes {known}", unknown[0])
        graph = EXPLAIN if explanations.asked(item, self.targets, possible=self.can_explain) else MAIN
        return {graph: {spec.name: self._sequence(spec, item.get(spec.name)) for spec in self.inputs}}

    def postprocess(self, item: Item, outputs: Mapping[str, Arrays]) -> dict[str, Any]:
        if EXPLAIN not in outputs:
            return self.answer(outputs[MAIN])
        return self.answer(outputs[EXPLAIN]) | {"explanation": self.explanation(item, outputs[EXPLAIN])}

    @abstractmethod
    def answer(self, outputs: Arrays) -> dict[str, Any]:
        """What the outputs of a graph say of one item, of plain JSON values."""

    @abstractmethod
    def explanation(self, item: Item, outputs: Arrays) -> dict[str, Any]:
        """What the outputs of the graph `explain` say beside that."""

    def _sequence(self, spec: TensorSpec, value: object) -> NDArray[np.float32]:
        """One sequence (up to ℓ, D) as nested lists or array, padded to (ℓ, D) float32."""
        name, (length, width) = spec.name, (self.length(spec), self.width(spec))
        if value is None:
            if self.missing.get(name, "error") == "error":
                raise InputError(f"{name} is missing, and this model declares no substitute for it", name)
            return np.broadcast_to(self.rows[name], (length, width))
        array = numbers(value, name)
        if array.ndim != 2 or array.shape[1] != width or not 1 <= array.shape[0] <= length:
            raise InputError(
                f"{name} must be 1 to {length} rows of {width} numbers, not an array of shape {array.shape}", name
            )
        if array.shape[0] == length:
            return array
        padded = np.empty((length, width), np.float32)
        padded[: array.shape[0]] = array
        padded[array.shape[0] :] = self.rows[name]
        return padded

    def schema(self) -> dict[str, Any]:
        properties = {}
        for spec in self.inputs:
            properties[spec.name] = array_schema(spec) | {"minItems": 1}
        if self.can_explain:
            properties[explanations.FIELD] = explanations.request_schema(self.targets)
        required = [name for name in self.rows if self.missing.get(name, "error") == "error"]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    def answer_schema(self) -> dict[str, Any]:
        if not self.can_explain:
            return super().answer_schema()
        lengths = {spec.name: self.length(spec) for spec in self.inputs}
        return {
            "type": "object",
            "properties": {"explanation": explanations.answer_schema(lengths, self.targets)},
        }

    def example(self, calls: Mapping[str, Arrays]) -> dict[str, Any]:
        """The first rows of every sequence, rounded."""
        rows = {spec.name: calls[MAIN][spec.name][:EXAMPLE_ROWS].astype(np.float64) for spec in self.inputs}
        return {name: np.round(value, 3).tolist() for name, value in rows.items()}

    @staticmethod
    def length(spec: TensorSpec) -> int:
        """ℓ, the fixed number of rows of one input."""
        return int(spec.item_dims[0])

    @staticmethod
    def width(spec: TensorSpec) -> int:
        """D, the number of features of one row."""
        return int(spec.item_dims[1])


def numbers(value: object, field: str) -> NDArray[np.float32]:
    """Nested lists or an array of finite numbers, as float32. Raises InputError that names the field."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(f"{field} must be rows of equal length", field) from error
    if array.dtype.kind not in "fiu":
        raise InputError(f"{field} must hold numbers only", field)
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise InputError(f"{field} holds a number that is not finite in float32", field)
    return array
