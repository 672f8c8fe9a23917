"""Items to the bodies of our own protocol: a form for files, an .npz for arrays, JSON for everything else.

An item is a mapping from field to value. Files are given as bytes, or as the Path of one.
"""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from wander.errors import InputError

Item = Mapping[str, Any]
Body = dict[str, Any]
"""The part of a request that httpx makes a body of."""

JSON = "application/json"
NDJSON = "application/x-ndjson"


def one(item: Item, *, arrays: bool) -> Body:
    """The body of one item.

    Args:
        arrays: whether the route reads an .npz. Arrays of two dimensions then go as they are, in place of nested lists.

    Raises InputError that names a field which cannot be sent.
    """
    if any(_is_file(value) for value in item.values()):
        files = {name: _file(name, value) for name, value in item.items() if _is_file(value)}
        texts = {n: _text(n, value) for n, value in item.items() if n not in files and value is not None}
        return {"files": files, "data": texts}
    if arrays and _are_arrays(item):
        return npz(item)
    return json_body(_plain(item))


def many(items: Sequence[Item]) -> Body:
    """The body of several: arrays that are alike go as one .npz, files stand in the JSON as base64."""
    if items and all(_are_arrays(item) for item in items):
        shapes = [{name: (array.shape, array.dtype) for name, array in item.items()} for item in items]
        if all(shape == shapes[0] for shape in shapes):
            return npz({name: np.stack([item[name] for item in items]) for name in items[0]})
    return json_body({"items": [_plain(item, f"items[{number}]") for number, item in enumerate(items)]})


def lines(items: Iterable[Item | bytes]) -> Body:
    """NDJSON; a line that is bytes already is sent as it is."""
    made = (
        item if isinstance(item, bytes) else dumps(_plain(item, f"items[{number}]")).encode()
        for number, item in enumerate(items)
    )
    return {"content": b"\n".join(made), "headers": {"content-type": NDJSON}}


def json_body(value: Any) -> Body:
    return {"content": dumps(value).encode(), "headers": {"content-type": JSON}}


def dumps(value: Any, field: str | None = None) -> str:
    """JSON, with arrays as nested lists. Raises InputError for what JSON cannot hold, such as NaN."""
    try:
        return json.dumps(value, allow_nan=False, default=_number, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise InputError(f"the request cannot be written as JSON: {error}", field) from error


def _number(value: object) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not a value of JSON")


def _plain(item: Item, where: str = "") -> dict[str, Any]:
    """The item with its files as base64."""
    return {
        name: base64.b64encode(_file(f"{where}.{name}".lstrip("."), value)[1]).decode() if _is_file(value) else value
        for name, value in item.items()
    }


def _is_file(value: object) -> bool:
    return isinstance(value, bytes | Path)


def _file(name: str, value: bytes | Path) -> tuple[str, bytes]:
    """Name and content. Raises InputError if it cannot be read."""
    if isinstance(value, bytes):
        return name, value
    try:
        return value.name, value.read_bytes()
    except OSError as error:
        raise InputError(f"{value} cannot be read: {error.strerror}", name) from error


def _text(name: str, value: object) -> str:
    """A field of a form."""
    return value if isinstance(value, str) else dumps(value, name)


def _are_arrays(item: Item) -> bool:
    """Whether the server would read these from an .npz as one item."""
    return bool(item) and all(
        isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind in "biuf" for value in item.values()
    )


def npz(arrays: Mapping[str, NDArray[Any]]) -> Body:
    """A form with one file of arrays. Raises InputError for an array of objects."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            if array.dtype.hasobject:
                raise InputError(f"{name} holds objects; only numbers and texts can be sent", name)
            npy.write_array(member, array, allow_pickle=False)
            archive.writestr(f"{name}.npy", member.getvalue())
    return {"files": {"file": ("items.npz", file.getvalue())}}
