"""A video as what experts saw in it: their features over time, to the tensors that a text-video model takes.

An item brings the `features` (rows of numbers) of each expert that saw something, their `times`, and, if the rows are
not all that there were, the `maximum` over all. An expert that is not named, or null, is missing. Three things are as
in MMT's evaluation: of too many rows some are drawn, the same ones every time; the maximum is that of all rows, drawn
or not; and a time counts by its whole seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wander.errors import InputError
from wander.extractors.base import FIRST
from wander.tasks._sequences import numbers

UNKNOWN = 1
"""Position of a row without a time, and of padding."""
LATEST = 1e6
FIELDS = ("features", "times", "maximum")
Row = dict[str, NDArray[Any]]


class Experts:
    """The experts of one model.

    Args:
        widths: of the features, by expert, in the model's order.
        tokens: T, rows of an expert that the model takes.
        most: rows of an expert that an item may have.
    """

    def __init__(self, widths: Mapping[str, int], tokens: int, most: int) -> None:
        self.widths = dict(widths)
        self.tokens = tokens
        self.most = most

    def __call__(self, video: object, field: str = "video") -> Row:
        """The tensors of one video: `features_*` (T, D), `maximum_*` (D), `positions` and `mask` int64 (M, T).

        Raises InputError that names the field.
        """
        given = mapping(mapping(video, field, ("experts",)).get("experts"), f"{field}.experts", tuple(self.widths))
        arrays: Row = {}
        positions = np.full((len(self.widths), self.tokens), UNKNOWN, np.int64)
        mask = np.zeros((len(self.widths), self.tokens), np.int64)
        for place, (name, width) in enumerate(self.widths.items()):
            features = np.zeros((self.tokens, width), np.float32)
            maximum = np.zeros(width, np.float32)
            if given.get(name) is not None:
                where = f"{field}.experts.{name}"
                rows, times, maximum = self._read(mapping(given[name], where, FIELDS), width, where)
                kept = draw(len(rows), self.tokens)
                features[: len(kept)] = rows[kept]
                positions[place, : len(kept)] = times[kept]
                mask[place, : len(kept)] = 1
            arrays[f"features_{name}"], arrays[f"maximum_{name}"] = features, maximum
        return {**arrays, "positions": positions, "mask": mask}

    def _read(
        self, given: Mapping[str, Any], width: int, where: str
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Features (n, D), positions int64 (n), maximum (D)."""
        if given.get("features") is None:
            raise InputError(f"{where}.features is missing; leave the expert out if the video lacks it", where)
        rows = numbers(given["features"], f"{where}.features")
        if rows.ndim != 2 or rows.shape[1] != width or not 1 <= len(rows) <= self.most:
            raise InputError(
                f"{where}.features must be 1 to {self.most} rows of {width} numbers, not of shape {rows.shape}",
                f"{where}.features",
            )
        positions = np.full(len(rows), UNKNOWN, np.int64)
        if given.get("times") is not None:
            times = vector(given["times"], len(rows), f"{where}.times")
            positions = np.clip(times, 0, LATEST).astype(np.int64)
        if given.get("maximum") is None:
            return rows, positions, rows.max(0)
        return rows, positions, vector(given["maximum"], width, f"{where}.maximum")

    def item(self, arrays: Mapping[str, NDArray[Any]], rows: int) -> dict[str, Any]:
        """A small video of plain JSON values: the first rows of each expert's tensors, rounded."""
        experts = {}
        for place, name in enumerate(self.widths):
            number = min(rows, int(arrays["mask"][place].sum()))
            if number:
                features = np.round(arrays[f"features_{name}"][:number].astype(np.float64), 3)
                times = arrays["positions"][place, :number]
                experts[name] = {"features": features.tolist(), "times": times.tolist()}
        return {"experts": experts}

    def schema(self) -> dict[str, Any]:
        """JSON schema of a video."""
        number: dict[str, Any] = {"type": "number"}
        rows = {"minItems": 1, "maxItems": self.most}
        experts = {
            name: {
                "type": "object",
                "properties": {
                    "features": {"type": "array", "items": _array(number, width), **rows},
                    "times": {
                        "type": "array",
                        "items": number,
                        **rows,
                        "description": f"of each row: the second that it stands for, plus {FIRST:g}",
                    },
                    "maximum": {
                        **_array(number, width),
                        "description": "over all rows that there were, if features holds only some of them",
                    },
                },
                "required": ["features"],
                "additionalProperties": False,
            }
            for name, width in self.widths.items()
        }
        found = {"type": "object", "properties": experts, "additionalProperties": False}
        return {
            "type": "object",
            "properties": {"experts": found},
            "required": ["experts"],
            "additionalProperties": False,
        }


def draw(rows: int, most: int) -> NDArray[np.int64]:
    """The rows that are kept, in order: all, or `most` of them drawn as MMT's evaluation does it."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.RandomState(0).choice(rows, size=most, replace=False))


def mapping(value: object, field: str, names: tuple[str, ...]) -> Mapping[str, Any]:
    """An object with no other fields than these. Raises InputError that names the one that is wrong."""
    if not isinstance(value, Mapping):
        raise InputError(f"{field} must be an object with {', '.join(names)}", field)
    if unknown := sorted(str(name) for name in value if name not in names):
        raise InputError(
            f"{unknown[0]} is not a field of {field}; there are {', '.join(names)}", f"{field}.{unknown[0]}"
        )
    return value


def vector(value: object, size: int, field: str) -> NDArray[np.float32]:
    """So many finite numbers. Raises InputError that names the field."""
    array = numbers(value, field)
    if array.shape != (size,):
        raise InputError(f"{field} must be {size} numbers, not an array of shape {array.shape}", field)
    return array


def _array(items: Mapping[str, Any], size: int) -> dict[str, Any]:
    kind: Literal["array"] = "array"
    return {"type": kind, "items": items, "minItems": size, "maxItems": size}
