"""Signatures: what fits, what does not, and how it is said."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from wander.errors import InputError
from wander.signature import Signature, TensorSpec

SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="ids", dtype="int64", dims=("batch", "tokens")),
        TensorSpec(name="mask", dtype="int64", dims=("batch", "tokens")),
        TensorSpec(name="image", dtype="float32", dims=("batch", 3, 4)),
    ),
    outputs=(TensorSpec(name="vector", dtype="float32", dims=("batch", 2)),),
)


def arrays(rows: int = 2, tokens: int = 5) -> dict[str, np.ndarray]:
    ids = np.zeros((rows, tokens), np.int64)
    return {"ids": ids, "mask": ids, "image": np.zeros((rows, 3, 4), np.float32)}


def test_a_batch_that_fits_has_its_rows_counted() -> None:
    assert SIGNATURE.check(arrays(7)) == 7
    assert SIGNATURE.check(arrays(1, tokens=1)) == 1


@pytest.mark.parametrize(
    ("change", "field", "complaint"),
    [
        ({"ids": None}, "ids", "missing"),
        ({"other": np.zeros(1)}, "other", "unknown input"),
        ({"ids": np.zeros((2, 5), np.int32)}, "ids", "int64, not int32"),
        ({"image": np.zeros((2, 3), np.float32)}, "image", r"shape \(batch, 3, 4\)"),
        ({"image": np.zeros((2, 3, 5), np.float32)}, "image", r"not \(2, 3, 5\)"),
        ({"mask": np.zeros((2, 4), np.int64)}, "mask", "tokens 4, but ids has 5"),
        ({"image": np.zeros((3, 3, 4), np.float32)}, "image", "batch 3, but ids has 2"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, np.ndarray | None], field: str, complaint: str) -> None:
    given = {name: value for name, value in (arrays() | change).items() if value is not None}
    with pytest.raises(InputError, match=complaint) as caught:
        SIGNATURE.check(given)
    assert caught.value.field == field


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(InputError, match="empty"):
        SIGNATURE.check(arrays(0))


@pytest.mark.parametrize("dims", [(), (3,), ("tokens", 2), ("batch", 0)])
def test_dimensions_that_cannot_be(dims: tuple[int | str, ...]) -> None:
    with pytest.raises(ValidationError):
        TensorSpec(name="x", dtype="float32", dims=dims)


def test_it_survives_json() -> None:
    assert Signature.model_validate_json(SIGNATURE.model_dump_json()) == SIGNATURE
