"""The codec of the Open Inference Protocol: what it reads it gives back, and what it refuses it names."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from serving.protocols._tensors import DTYPES, MAX_RANK, NAMES, Request, decode, encode
from tests.serving.protocols.bodies import as_binary, as_json, outputs_of
from wander.errors import InputError, MalformedBody
from wander.signature import DType

KINDS = [dtype for dtype in NAMES if dtype != "bfloat16"]
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)
FINITE = {"allow_nan": False, "allow_infinity": False}


def arrays(dtype: str, finite: bool = False) -> st.SearchStrategy[NDArray[Any]]:
    elements = hnp.from_dtype(np.dtype(dtype), **(FINITE if finite and "float" in dtype else {}))
    return hnp.arrays(dtype, SHAPES, elements=elements)


def inputs(finite: bool = False) -> st.SearchStrategy[dict[str, NDArray[Any]]]:
    one = st.sampled_from(KINDS).flatmap(lambda dtype: arrays(dtype, finite))
    return st.dictionaries(st.text(max_size=5), one, min_size=1, max_size=4)


def same(left: dict[str, NDArray[Any]], right: dict[str, NDArray[Any]]) -> None:
    assert list(left) == list(right)
    for name, array in left.items():
        assert (array.dtype, array.shape) == (right[name].dtype, right[name].shape)
        assert array.tobytes() == right[name].tobytes()  # NaN's bits too


def test_every_dtype_has_a_name() -> None:
    assert set(NAMES) == set(get_args(DType))
    assert {str(dtype) for dtype in DTYPES.values()} == set(KINDS)


@given(inputs())
def test_binary_is_read_as_it_was_written(given_: dict[str, NDArray[Any]]) -> None:
    body, length = as_binary(given_)
    read = decode(body, length).inputs
    same(read, given_)
    assert all(array.flags.aligned and array.flags.c_contiguous for array in read.values())


@given(inputs(finite=True), st.booleans())
def test_json_is_read_as_it_was_written(given_: dict[str, NDArray[Any]], nested: bool) -> None:
    body = json.dumps(as_json(given_, nested)).encode()
    same(decode(body).inputs, given_)
    same(decode(body, len(body)).inputs, given_)


@given(inputs(), st.booleans())
def test_binary_outputs(outputs: dict[str, NDArray[Any]], named: bool) -> None:
    request = Request({}, dict.fromkeys(outputs, True) if named else None, binary=not named)
    body, length = encode(outputs, {"id": "é"}, request)
    same(outputs_of(body, str(length)), outputs)
    assert json.loads(body[:length])["id"] == "é"


@given(inputs(finite=True))
def test_json_outputs(outputs: dict[str, NDArray[Any]]) -> None:
    body, length = encode(outputs, {}, Request({}))
    assert length is None
    same(outputs_of(body, None), outputs)


def test_outputs_of_both_kinds() -> None:
    outputs = {"a": np.ones((1, 2), np.float32), "b": np.full((2, 1), 7, np.int8)}
    body, length = encode(outputs, {}, Request({}, {"a": False, "b": True}))
    same(outputs_of(body, str(length)), outputs)
    assert [("data" in one) for one in json.loads(body[:length])["outputs"]] == [True, False]


def test_outputs_that_do_not_lie_in_a_row() -> None:
    outputs = {"a": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.arange(8, dtype=np.int64)[::2]}
    for request in (Request({}), Request({}, binary=True)):
        body, length = encode(outputs, {}, request)
        same(outputs_of(body, None if length is None else str(length)), outputs)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_json_cannot_hold(value: float) -> None:
    outputs = {"score": np.array([value], np.float32)}
    with pytest.raises(InputError, match="score"):
        encode(outputs, {}, Request({}))
    body, length = encode(outputs, {}, Request({}, binary=True))
    same(outputs_of(body, str(length)), outputs)


def tensor(**changes: Any) -> dict[str, Any]:
    """A good input, but for the changes; None takes a member away."""
    one = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2.5, 3, 4]} | changes
    return {name: value for name, value in one.items() if value is not None}


def binary(size: Any = 16, **changes: Any) -> dict[str, Any]:
    return tensor(data=None, parameters={"binary_data_size": size}, **changes)


def refused(body: Any, rest: bytes | None = None) -> InputError:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(InputError) as caught:
        decode(text + (rest or b""), None if rest is None else len(text))
    return caught.value


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], None),
        ({}, "inputs"),
        ({"inputs": {}}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [1]}, "inputs[0]"),
        ({"inputs": [tensor(), tensor()]}, "inputs[1].name"),
        ({"inputs": [tensor(name=None)]}, "inputs[0].name"),
        ({"inputs": [tensor(name=1)]}, "inputs[0].name"),
        ({"inputs": [tensor(datatype=None)]}, "inputs[0].datatype"),
        ({"inputs": [tensor(datatype="FP8")]}, "inputs[0].datatype"),
        ({"inputs": [tensor(datatype=["FP32"])]}, "inputs[0].datatype"),
        ({"inputs": [tensor(datatype="BYTES")]}, "inputs[0].datatype"),
        ({"inputs": [tensor(datatype="BF16")]}, "inputs[0].datatype"),
        ({"inputs": [tensor(shape=None)]}, "inputs[0].shape"),
        ({"inputs": [tensor(shape=4)]}, "inputs[0].shape"),
        ({"inputs": [tensor(shape=[-2, -2])]}, "inputs[0].shape"),
        ({"inputs": [tensor(shape=[2.0, 2])]}, "inputs[0].shape"),
        ({"inputs": [tensor(shape=[True, 4])]}, "inputs[0].shape"),
        ({"inputs": [tensor(shape=["2", 2])]}, "inputs[0].shape"),
        ({"inputs": [tensor(shape=[1] * (MAX_RANK + 1), data=[1])]}, "inputs[0].shape"),
        ({"inputs": [tensor(shape=[0, 2**62, 2**62], data=[])]}, "inputs[0].shape"),
        ({"inputs": [tensor(shape=[0, 2**64 - 1], data=[])]}, "inputs[0].shape"),
        ({"inputs": [tensor(shape=[10**12])]}, "inputs[0].data"),
        ({"inputs": [tensor(shape=[2**63, 2**63])]}, "inputs[0].data"),
        ({"inputs": [tensor(data=None)]}, "inputs[0].data"),
        ({"inputs": [tensor(data="1234")]}, "inputs[0].data"),
        ({"inputs": [tensor(data=[1, 2, 3])]}, "inputs[0].data"),
        ({"inputs": [tensor(data=[1, 2, 3, None])]}, "inputs[0].data"),
        ({"inputs": [tensor(data=[1, 2, 3, "4"])]}, "inputs[0].data"),
        ({"inputs": [tensor(data=[1, 2, 3, True])]}, "inputs[0].data"),
        ({"inputs": [tensor(data=[1, 2, 3, 1e39])]}, "inputs[0].data"),
        ({"inputs": [tensor(data=[[1, 2], [3]])]}, "inputs[0].data"),
        ({"inputs": [tensor(data=[[1, 2], 3, 4])]}, "inputs[0].data"),
        ({"inputs": [tensor(data=[1, 2, 3, [4]])]}, "inputs[0].data"),
        ({"inputs": [tensor(data=[[[1], [2]], [[3], [4]]])]}, "inputs[0].data"),
        ({"inputs": [tensor(data=[[1, 2, 3, 4]])]}, "inputs[0].data"),
        ({"inputs": [tensor(datatype="FP16", data=[1, 2, 3, 65536])]}, "inputs[0].data"),
        ({"inputs": [tensor(datatype="INT64", data=[1, 2, 3, 4.0])]}, "inputs[0].data"),
        ({"inputs": [tensor(datatype="INT64", data=[1, 2, 3, 2**63])]}, "inputs[0].data"),
        ({"inputs": [tensor(datatype="INT32", data=[1, 2, 3, -(2**31) - 1])]}, "inputs[0].data"),
        ({"inputs": [tensor(datatype="INT8", data=[1, 2, 3, 128])]}, "inputs[0].data"),
        ({"inputs": [tensor(datatype="UINT8", data=[1, 2, 3, -1])]}, "inputs[0].data"),
        ({"inputs": [tensor(datatype="INT8", data=[1, 2, 3, False])]}, "inputs[0].data"),
        ({"inputs": [tensor(datatype="BOOL", data=[True, False, True, 1])]}, "inputs[0].data"),
        ({"inputs": [tensor(parameters=[])]}, "inputs[0].parameters"),
        ({"inputs": [tensor(parameters={"x": [1]})]}, "inputs[0].parameters.x"),
        ({"inputs": [binary()]}, "inputs[0].parameters.binary_data_size"),
        (
            {"inputs": [tensor(data=None, parameters={"shared_memory_region": "r"})]},
            "inputs[0].parameters.shared_memory_region",
        ),
        ({"inputs": [tensor()], "id": 7}, "id"),
        ({"inputs": [tensor()], "parameters": 7}, "parameters"),
        ({"inputs": [tensor()], "parameters": {"a": None}}, "parameters.a"),
        ({"inputs": [tensor()], "parameters": {"binary_data_output": 1}}, "parameters.binary_data_output"),
        ({"inputs": [tensor()], "outputs": {}}, "outputs"),
        ({"inputs": [tensor()], "outputs": [7]}, "outputs[0].name"),
        ({"inputs": [tensor()], "outputs": [{"name": "y"}, {"name": "y"}]}, "outputs[1].name"),
        ({"inputs": [tensor()], "outputs": [{"name": "y", "parameters": 1}]}, "outputs[0].parameters"),
        (
            {"inputs": [tensor()], "outputs": [{"name": "y", "parameters": {"classification": 3}}]},
            "outputs[0].parameters.classification",
        ),
        (
            {"inputs": [tensor()], "outputs": [{"name": "y", "parameters": {"binary_data": "no"}}]},
            "outputs[0].parameters.binary_data",
        ),
    ],
)
def test_refusals_name_the_field(body: Any, field: str | None) -> None:
    error = refused(body)
    assert type(error) is InputError
    assert error.field == field


@pytest.mark.parametrize(
    ("one", "rest", "field"),
    [
        (binary(12), bytes(12), "inputs[0].parameters.binary_data_size"),
        (binary(16), bytes(12), "inputs[0].parameters.binary_data_size"),
        (binary(-16), bytes(16), "inputs[0].parameters.binary_data_size"),
        (binary("16"), bytes(16), "inputs[0].parameters.binary_data_size"),
        (binary(16.0), bytes(16), "inputs[0].parameters.binary_data_size"),
        (binary(True, shape=[1], datatype="UINT8"), bytes(1), "inputs[0].parameters.binary_data_size"),
        (binary(4 * 10**12, shape=[10**12]), bytes(16), "inputs[0].parameters.binary_data_size"),
        (binary(0, shape=[0, 2**62, 2**62]), b"", "inputs[0].shape"),
        (binary() | {"data": [1, 2, 3, 4]}, bytes(16), "inputs[0].parameters.binary_data_size"),
        (binary(4, datatype="BOOL"), b"\0\1\2\0", "inputs[0]"),
        (binary(16), bytes(17), None),
        (tensor(), bytes(1), None),
    ],
)
def test_binary_data_must_be_what_is_announced(one: dict[str, Any], rest: bytes, field: str | None) -> None:
    error = refused({"inputs": [one]}, rest)
    assert type(error) is InputError
    assert error.field == field


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"inputs": [NaN]}', b'{"inputs": 1e999}', b"[" * 100_000])
def test_what_is_no_json(body: bytes) -> None:
    assert type(refused(body)) is MalformedBody


@pytest.mark.parametrize("length", [-1, 3, 10**18])
def test_length_beyond_the_body(length: int) -> None:
    with pytest.raises(MalformedBody, match="announced"):
        decode(b"{}", length)


def test_shape_alone_takes_no_memory() -> None:
    body = json.dumps({"inputs": [tensor(shape=[10**6, 10**6], data=[[1.0]])]}).encode()
    tracemalloc.start()
    try:
        refused(body)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=200), st.none() | st.integers(0, 220))
def test_any_bytes_are_read_or_refused(body: bytes, length: int | None) -> None:
    with contextlib.suppress(InputError):
        decode(body, length)


WILD = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(**FINITE) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(st.data())
def test_any_member_may_be_wild(data: st.DataObject) -> None:
    """A good request in which members are replaced at random is read, or refused with an error of ours."""
    body: Any = {"id": "1", "parameters": {}, "inputs": [tensor(), binary(name="y")], "outputs": [{"name": "z"}]}
    for _ in range(data.draw(st.integers(1, 3))):
        place, key = body, data.draw(st.sampled_from(sorted(body)))
        while isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
            place = place[key]
            key = data.draw(
                st.sampled_from(sorted(place)) if isinstance(place, dict) else st.integers(0, len(place) - 1)
            )
        place[key] = data.draw(WILD)
    text = json.dumps(body).encode()
    try:
        request = decode(text + bytes(16), len(text))
    except InputError:
        return
    assert sum(array.nbytes for array in request.inputs.values()) <= 8 * len(text) + 16
