"""Items as arrays: an .npz in which row i of every array is a field of item i. Knows no task."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.parsing import parse_json
from wander.errors import InputError, MalformedBody, TooLarge
from wander.npz import read_npz

ID, METADATA = "id", "metadata"
MAX_DEPTH = 8
"""Names between the dots of an array's name."""


def read_items(body: bytes, max_bytes: int, max_items: int) -> list[dict[str, Any] | InputError]:
    """The items, in order; one whose metadata is no JSON is the error that it deserves.

    `id` (N) and `metadata` (N), each a JSON object, are of text. An array called `video.experts.rgb.features` is the
    field `features` of an object in an object. Items need not have as many rows: those at the end that are NaN all over
    are left out, and a field of which nothing is left, or an empty text, is missing.

    Raises MalformedBody, InputError that names the array, and TooLarge.
    """
    arrays = read_npz(body, max_bytes, texts=True)
    if ID not in arrays or arrays[ID].dtype.kind != "U" or arrays[ID].ndim != 1:
        raise InputError("the .npz needs an array of texts, one an item, called id", ID)
    count = len(arrays[ID])
    if count > max_items:
        raise TooLarge(f"{count} items are more than the {max_items} of one request", ID)
    items: list[dict[str, Any] | InputError] = [{} for _ in range(count)]
    for name, array in sorted(arrays.items()):
        if array.ndim == 0 or len(array) != count:
            raise InputError(f"{name} has the shape {array.shape}; there are {count} ids, and a row for each", name)
        if array.dtype.kind == "U" and array.ndim != 1:
            raise InputError(f"{name} has more than one text an item", name)
        path = name.split(".")
        if len(path) > MAX_DEPTH or not all(path):
            raise InputError(f"{name[:100]!r} is no path of at most {MAX_DEPTH} names", name)
        for number, value in enumerate(_texts(array, name) if array.dtype.kind == "U" else array):
            item = items[number]
            if isinstance(item, InputError) or (kept := _filled(value)) is None:
                continue
            if name == METADATA:
                try:
                    kept = parse_json(str(kept).encode(), METADATA)
                except MalformedBody as error:
                    items[number] = InputError(str(error), METADATA)
                    continue
            _put(item, path, kept)
    return items


def _texts(array: NDArray[Any], name: str) -> list[str]:
    try:
        texts: list[str] = array.tolist()
        for text in texts:
            text.encode()
    except (ValueError, SystemError) as error:
        raise MalformedBody(f"{name} holds what is no Unicode text", name) from error
    return texts


def _filled(value: Any) -> Any:
    """Without what fills it up; None if nothing is left."""
    if isinstance(value, str):
        return value or None
    if value.dtype.kind != "f":
        return value if value.ndim else value.item()
    if value.ndim == 0:
        return None if np.isnan(value) else value.item()
    there = ~np.isnan(value)
    rows = np.flatnonzero(there.reshape(len(value), -1).any(1))
    return value[: rows[-1] + 1] if len(rows) else None


def _put(item: dict[str, Any], path: list[str], value: Any) -> None:
    """Raises InputError for a field that is a value and an object at once."""
    for name in path[:-1]:
        item = item.setdefault(name, {})
        if not isinstance(item, dict):
            raise InputError(f"{'.'.join(path)} is within {name}, which is a value", ".".join(path))
    item[path[-1]] = value
