"""Items as an .npz: what they become, and what is refused before anything is embedded."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from serving.protocols._arrays import read_items
from wander.errors import InputError, MalformedBody, TooLarge

LIMIT = 1 << 20


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **{name: np.asarray(array) for name, array in arrays.items()})
    return file.getvalue()


def read(most: int = 8, **arrays: Any) -> Any:
    return read_items(npz(**arrays), LIMIT, most)


def test_rows_become_items() -> None:
    nan = np.nan
    items = read(
        **{
            "id": ["a", "é/b", "c"],
            "metadata": ['{"n": [1, {"x": null}]}', "", "{"],
            "text": ["red", "", "blue"],
            "video.experts.rgb.features": [[[1, 2], [3, nan]], [[1, 2], [nan, nan]], [[nan, nan], [nan, nan]]],
            "video.experts.rgb.times": [[1.0, 2.0], [1.0, nan], [nan, nan]],
            "count": [1, 2, 3],
            "share": [0.5, nan, 1.0],
        }
    )
    first, second, third = items
    assert (first["id"], first["metadata"], first["text"]) == ("a", {"n": [1, {"x": None}]}, "red")
    assert (first["count"], first["share"]) == (1, 0.5)
    assert first["video"]["experts"]["rgb"]["features"].shape == (2, 2)
    assert set(second) == {"id", "video", "count"}
    np.testing.assert_array_equal(second["video"]["experts"]["rgb"]["features"], [[1, 2]])
    np.testing.assert_array_equal(second["video"]["experts"]["rgb"]["times"], [1.0])
    assert isinstance(third, InputError)
    assert third.field == "metadata"


def test_item_without_a_field_has_none() -> None:
    (item,) = read(id=["a"], **{"video.experts.rgb.features": [[[np.nan]]], "video.experts.s3d.features": [[[1.0]]]})
    assert set(item["video"]["experts"]) == {"s3d"}


@pytest.mark.parametrize(
    ("arrays", "error", "field"),
    [
        ({"text": ["a"]}, InputError, "id"),
        ({"id": [1, 2]}, InputError, "id"),
        ({"id": [["a"]]}, InputError, "id"),
        ({"id": "a"}, InputError, "id"),
        ({"id": ["a"] * 9}, TooLarge, "id"),
        ({"id": ["a", "b"], "text": ["a"]}, InputError, "text"),
        ({"id": ["a", "b"], "x": 3.0}, InputError, "x"),
        ({"id": ["a"], "text": [["a", "b"]]}, InputError, "text"),
        ({"id": ["a"], "x..y": [1]}, InputError, "x..y"),
        ({"id": ["a"], "x": [1], "x.y": [1]}, InputError, "x.y"),
        ({"id": ["a"], ".".join("abcdefghi"): [1]}, InputError, ".".join("abcdefghi")),
        ({"id": ["a"], "x": np.array([object()])}, MalformedBody, "x"),
        ({"id": ["a"], "x": np.array([b"bytes"])}, MalformedBody, "x"),
        ({"id": ["a"], "x": np.array(["2020"], "M8[s]")}, MalformedBody, "x"),
        ({"id": np.array([0xD800], "<u4").view("<U1")}, MalformedBody, "id"),
        ({"id": np.array([0x110000], "<u4").view("<U1")}, MalformedBody, "id"),
    ],
)
def test_arrays_that_are_none_of_items(arrays: dict[str, Any], error: type[InputError], field: str) -> None:
    with pytest.raises(error) as caught:
        read(**arrays)
    assert type(caught.value) is error
    assert caught.value.field == field


@pytest.mark.parametrize("body", [b"", b"PK", b"{}", npz(id=["a"])[:-10]])
def test_what_is_no_npz(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        read_items(body, LIMIT, 8)


def test_more_than_the_limit_unpacked() -> None:
    file = io.BytesIO()
    np.savez_compressed(file, id=np.array(["a"]), text=np.array(["x" * LIMIT]))
    assert len(file.getvalue()) < LIMIT
    with pytest.raises(TooLarge):
        read_items(file.getvalue(), LIMIT, 8)
