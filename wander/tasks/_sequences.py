"""Items made of one feature sequence a modality, for the hosts that take fixed lengths and know no masks.

A shorter sequence is padded at its end as in training, a longer one is an error, and a missing modality does what the
manifest declares, never something else. Where the manifest declares a front end for a field, an item may hold what the
features are made of in their place: a sentence, a recording.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wander.errors import BundleError, ConfigError, InputError
from wander.manifest import EXPLAIN, MAIN, Manifest, first_problem
from wander.signature import Arrays, TensorSpec
from wander.tasks import _explanations as explanations
from wander.tasks.base import Calls, Item, Operation, Task, array_schema
from wander.tasks.front_ends import FrontEnd, Rows, front_ends
from wander.tasks.front_ends.base import Label

EXAMPLE_ROWS = 2
MOST_REMEMBERED = 8
"""Items that wait for the answer which explains them, of which is kept what their rows are. Others are read again."""


class SequencePreprocessing(BaseModel):
    """`preprocessing` of a manifest.

    Attributes:
        missing: per modality, what happens if an item lacks it: `error` (also if it is not named here), or `padding`:
            a sequence of padding alone, as in training.
        padding: per modality, the row (D values) that fills a short sequence; zeros if it is not named here.
        front_ends: per field, what makes features of raw input: `kind`, a file of `wander.tasks.front_ends`, and its
            options.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    missing: dict[str, Literal["error", "padding"]] = Field(default_factory=dict)
    padding: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    front_ends: dict[str, dict[str, Any]] = Field(default_factory=dict)


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
        self.front_ends: dict[str, FrontEnd] = {}
        self.made: dict[str, str] = {}
        """Input -> the field that a front end fills it from."""
        self._read: OrderedDict[int, tuple[Item, dict[str, list[Label]]]] = OrderedDict()
        for field, options in declared.front_ends.items():
            self._bind(field, options, folder)

    def _bind(self, field: str, options: Mapping[str, Any], folder: Path) -> None:
        """Adds the front end of a field."""
        try:
            kind = front_ends.get(str(options.get("kind")))
            checked = kind.Options.model_validate(options)
        except ConfigError as error:
            raise BundleError(f"preprocessing.front_ends.{field}.kind: {error}") from error
        except ValidationError as error:
            raise BundleError(f"preprocessing.front_ends.{field}.{first_problem(error)}") from error
        bound = kind(checked, field, {spec.name: spec for spec in self.inputs}, folder)
        if field not in bound.inputs or (twice := [name for name in bound.inputs if name in self.made]):
            where = f"{field} itself" if field not in bound.inputs else f"{twice[0]}, which another one fills"
            raise BundleError(f"preprocessing.front_ends.{field} must fill {field}, and nothing twice: see {where}")
        self.front_ends[field] = bound
        self.made |= dict.fromkeys(bound.inputs, field)

    def files(self) -> tuple[str, ...]:
        return tuple(field for field, front_end in self.front_ends.items() if front_end.uploads)

    def raw(self) -> tuple[str, ...]:
        return tuple(self.front_ends)

    def fits(self, item: Item) -> bool:
        """By which of its fields are raw, and by the width of features."""
        return all(self._has_form(spec.name, self.width(spec), item.get(spec.name)) for spec in self.inputs)

    def _has_form(self, name: str, width: int, value: Any) -> bool:
        if value is None or (name in self.front_ends and self.front_ends[name].reads(value)):
            return True
        if isinstance(value, np.ndarray):
            return value.ndim == 2 and value.shape[1] == width
        return isinstance(value, list) and bool(value) and isinstance(value[0], list) and len(value[0]) == width

    def operation(self, name: str) -> Operation:
        return self

    def preprocess(self, item: Item) -> Calls:
        if unknown := sorted(set(item) - set(self.rows) - {explanations.FIELD}):
            known = ", ".join(self.rows)
            raise InputError(f"{unknown[0]} is not a field of this model; it takes {known}", unknown[0])
        made = self._made(item)
        features = {**item, **{name: rows.features for name, rows in made.items()}}
        tensors = {spec.name: self._sequence(spec, features.get(spec.name)) for spec in self.inputs}
        if not explanations.asked(item, self.targets, possible=self.can_explain):
            return {MAIN: tensors}
        self._remember(item, made)
        return {EXPLAIN: tensors}

    def postprocess(self, item: Item, outputs: Mapping[str, Arrays]) -> dict[str, Any]:
        if EXPLAIN not in outputs:
            return self.answer(outputs[MAIN])
        labels = self._recalled(item)
        given = {name: labels.get(name, item.get(name)) for name in self.rows}
        rows = {name: 0 if value is None else len(value) for name, value in given.items()}
        answer = self.answer(outputs[EXPLAIN]) | {"explanation": self.explanation(item, rows, outputs[EXPLAIN])}
        return answer | ({"tokens": labels} if labels else {})

    @abstractmethod
    def answer(self, outputs: Arrays) -> dict[str, Any]:
        """What the outputs of a graph say of one item, of plain JSON values."""

    @abstractmethod
    def explanation(self, item: Item, rows: Mapping[str, int], outputs: Arrays) -> dict[str, Any]:
        """What the outputs of the graph `explain` say beside that. `rows` says how many each input was given."""

    def _made(self, item: Item) -> dict[str, Rows]:
        """Input -> its rows, of the raw fields of an item."""
        found: dict[str, Rows] = {}
        for field, front_end in self.front_ends.items():
            value = item.get(field)
            if value is None or not front_end.reads(value):
                continue
            if beside := [name for name in front_end.inputs if name != field and item.get(name) is not None]:
                raise InputError(f"{beside[0]} is made of {field} and cannot stand beside it; leave one out", beside[0])
            found |= front_end(value)
        return found

    def _remember(self, item: Item, made: Mapping[str, Rows]) -> None:
        """Keeps what the rows of an item are for its answer, which otherwise would have to read a recording again."""
        self._read[id(item)] = item, {name: rows.labels for name, rows in made.items()}
        while len(self._read) > MOST_REMEMBERED:
            self._read.popitem(last=False)

    def _recalled(self, item: Item) -> dict[str, list[Label]]:
        """Of every input that was made of raw input what its rows are: words, or seconds from and to."""
        of, labels = self._read.pop(id(item), (None, {}))
        return labels if of is item else {name: rows.labels for name, rows in self._made(item).items()}

    def _sequence(self, spec: TensorSpec, value: object) -> NDArray[np.float32]:
        """One sequence (up to ℓ, D) as nested lists or array, padded to (ℓ, D) float32."""
        name, (length, width) = spec.name, (self.length(spec), self.width(spec))
        if value is None:
            if self.missing.get(name, "error") == "error":
                raise InputError(f"{name} is missing, and this model declares no substitute for it", name)
            return np.broadcast_to(self.rows[name], (length, width))
        if isinstance(value, str | bytes | Mapping):
            about = "" if name in self.front_ends else ": it has no front end for anything else"
            raise InputError(f"{name} must be rows of {width} numbers, the features that this model takes{about}", name)
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
            features = array_schema(spec) | {"minItems": 1}
            front_end = self.front_ends.get(spec.name)
            properties[spec.name] = features if front_end is None else {"anyOf": [front_end.schema(), features]}
        if self.can_explain:
            properties[explanations.FIELD] = explanations.request_schema(self.targets)
        required = [
            name
            for name in self.rows
            if self.missing.get(name, "error") == "error" and self.made.get(name, name) == name
        ]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    def answer_schema(self) -> dict[str, Any]:
        if not self.can_explain:
            return super().answer_schema()
        lengths = {spec.name: self.length(spec) for spec in self.inputs}
        return {
            "type": "object",
            "properties": {
                "explanation": explanations.answer_schema(lengths, self.targets),
                **({"tokens": explanations.tokens_schema(self.made)} if self.made else {}),
            },
        }

    def example(self, calls: Mapping[str, Arrays]) -> dict[str, Any]:
        """The first rows of every sequence, rounded; or raw input alone, where a front end takes some."""
        found: dict[str, Any] = {}
        for name, value in calls[MAIN].items():
            if name in self.front_ends:
                found[name] = self.front_ends[name].example(calls[MAIN])
            elif name not in self.made and not (self.front_ends and self.missing.get(name) == "padding"):
                found[name] = np.round(value[:EXAMPLE_ROWS].astype(np.float64), 3).tolist()
        return found

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
