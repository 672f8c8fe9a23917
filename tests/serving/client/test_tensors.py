"""KServe v2 bodies: back and forth, and as `tritonclient` writes and reads them."""

from __future__ import annotations

import json
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from serving.client._tensors import BYTES, DTYPES, decode, encode
from tests.serving.client.conftest import Connect, Reply, Scripted
from wander.errors import InputError, ServiceError

SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
NUMBERS = st.sampled_from(sorted(DTYPES.values(), key=str)).flatmap(lambda dtype: arrays.arrays(dtype, SHAPES))
TEXTS = arrays.arrays(object, SHAPES, elements=st.binary(max_size=8), fill=st.nothing())
TENSORS = st.dictionaries(st.text(min_size=1, max_size=8), NUMBERS | TEXTS, max_size=4)


def answered(body: bytes, length: int | None) -> tuple[bytes, int | None]:
    """The answer of a server whose outputs are its inputs."""
    size = len(body) if length is None else length
    head = json.loads(body[:size])
    made = json.dumps({"model_name": "echo", "outputs": head["inputs"]}).encode()
    return made + body[size:], None if length is None else len(made)


def assert_same(found: NDArray[Any], sent: NDArray[Any]) -> None:
    """Bit by bit, but for the byte order."""
    assert found.dtype == sent.dtype.newbyteorder("=")
    assert found.shape == sent.shape
    if sent.dtype.kind == "O":
        assert found.tolist() == sent.tolist()
    else:
        assert found.tobytes() == sent.astype(found.dtype).tobytes()
        assert found.flags.aligned
        assert found.flags.writeable


@given(TENSORS)
def test_binary_round_trip(tensors: dict[str, NDArray[Any]]) -> None:
    found = decode(*answered(*encode(tensors)))
    assert list(found) == list(tensors)
    for name, sent in tensors.items():
        assert_same(found[name], sent)


@given(TENSORS)
def test_json_round_trip(tensors: dict[str, NDArray[Any]]) -> None:
    try:
        body, length = encode(tensors, binary=False)
    except InputError:
        finite = all(np.isfinite(array).all() for array in tensors.values() if array.dtype.kind == "f")
        assert not finite or not all(map(is_text, tensors.values()))
        return
    assert length is None
    found = decode(*answered(body, None))
    for name, sent in tensors.items():
        assert_same(found[name], sent)


def is_text(array: NDArray[Any]) -> bool:
    try:
        return array.dtype.kind != "O" or all(e.decode() is not None for e in array.ravel())
    except UnicodeDecodeError:
        return False


@given(arrays.arrays(st.sampled_from([">f4", ">i8", "<u2"]), arrays.array_shapes(min_dims=2, max_dims=3)))
def test_memory_order_does_not_matter(array: NDArray[Any]) -> None:
    for given_ in (array, np.asfortranarray(array), array[::-1].T):
        assert_same(decode(*answered(*encode({"x": given_})))["x"], given_)


def test_what_is_asked_for() -> None:
    def head(*arguments: Any, **options: Any) -> dict[str, Any]:
        body, length = encode(*arguments, **options)
        return {k: v for k, v in json.loads(body[:length]).items() if k != "inputs"}

    one = {"x": np.zeros((1, 2), np.float32)}
    assert head(one) == {"parameters": {"binary_data_output": True}}
    assert head(one, binary=False) == {}
    assert head(one, ["y"]) == {"outputs": [{"name": "y", "parameters": {"binary_data": True}}]}
    assert head(one, ["y"], binary=False) == {"outputs": [{"name": "y", "parameters": {"binary_data": False}}]}
    asked = head(one, parameters={"adapter": "wander"}, request_id="7")
    assert asked == {"id": "7", "parameters": {"adapter": "wander", "binary_data_output": True}}


@pytest.mark.parametrize("array", [np.zeros(2, complex), np.zeros(2, np.longdouble), np.zeros(2, "M8[s]")], ids=str)
def test_dtypes_that_the_protocol_lacks(array: NDArray[Any]) -> None:
    with pytest.raises(InputError, match="no datatype") as caught:
        encode({"x": array})
    assert caught.value.field == "x"


def test_bfloat16() -> None:
    values = np.array([[0, -1.5], [3.140625, math.inf]], ml_dtypes.bfloat16)
    found = decode(*answered(*encode({"x": values})))["x"]
    assert found.dtype == np.float32
    assert found.tolist() == values.astype(np.float32).tolist()
    with pytest.raises(InputError, match="binary=True"):
        encode({"x": values}, binary=False)


def test_text_arrays() -> None:
    for array in (np.array(["é", "bc"]), np.array([b"\xc3\xa9", b"bc"]), np.array(["é", b"bc"], object)):
        for binary in (True, False):
            found = decode(*answered(*encode({"x": array}, binary=binary)))["x"]
            assert found.tolist() == ["é".encode(), b"bc"]
    with pytest.raises(InputError, match="no UTF-8"):
        encode({"x": np.array([b"\xff"], object)}, binary=False)


def broken(**output: Any) -> bytes:
    return json.dumps({"outputs": [{"name": "y", "datatype": "FP32", "shape": [2], **output}]}).encode()


SIZED = broken(parameters={"binary_data_size": 8})


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (b"", None),
        (b"[]", None),
        (b"{}", None),
        (b'{"outputs": 3}', None),
        (b'{"outputs": [{}]}', None),
        (broken(), None),
        (broken(data=[1]), None),
        (broken(data=["x", "y"]), None),
        (broken(data=[1, 2], shape=[-1]), None),
        (broken(data=[1, 2], shape=[2.0]), None),
        (broken(data=[1, 2], datatype="FP8"), None),
        (broken(data=[1, 300], datatype="UINT8"), None),
        (broken(data=[1.5, 1.5], datatype="INT8"), None),
        (broken(data=["a"], datatype=BYTES), None),
        (broken(data=[1, 2]) + b"rest", len(broken(data=[1, 2]))),
        (SIZED, 1000),
        (SIZED, -1),
        (SIZED, len(SIZED)),
        (SIZED + bytes(7), len(SIZED)),
        (SIZED + bytes(9), len(SIZED)),
        (broken(parameters={"binary_data_size": -8}), None),
        (broken(parameters={"binary_data_size": "8"}) + bytes(8), len(SIZED) + 2),
        (broken(parameters={"binary_data_size": 8}, shape=[3]) + bytes(8), len(SIZED)),
        (broken(parameters={"binary_data_size": 8}, datatype=BYTES) + bytes(8), len(SIZED) + 1),
        (broken(parameters={"binary_data_size": 8}, datatype=BYTES, shape=[1]) + b"\7\0\0\0abcd", len(SIZED) + 1),
        (broken(parameters={"binary_data_size": 8}, datatype=BYTES, shape=[1]) + b"\3\0\0\0abcd", len(SIZED) + 1),
    ],
)
def test_answers_that_do_not_hold_what_they_say(body: bytes, length: int | None) -> None:
    if body.count(b'"BYTES", "shape": [2]') and length is not None:
        assert decode(body, length)["y"].tolist() == [b"", b""]  # two empty elements: this one is whole
        return
    with pytest.raises(ServiceError):
        decode(body, length)


@given(st.binary(max_size=64), st.none() | st.integers(-2, 70))
def test_any_bytes_are_an_answer_or_an_error(body: bytes, length: int | None) -> None:
    for whole in (body, SIZED + body):
        try:
            decode(whole, length)
        except ServiceError:
            continue


def test_over_http(scripted: Scripted, connect: Connect) -> None:
    client = connect(scripted.url)
    sent = {"x": np.arange(6, dtype=np.float16).reshape(2, 3), "y": np.array([True, False])}
    body, length = answered(*encode(sent))
    scripted.replies = [Reply(200, body, {"Inference-Header-Content-Length": str(length)})]
    found = client.infer("a model", sent, version="3", request_id="7")
    assert found["x"].tolist() == sent["x"].tolist()
    (request,) = scripted.requests
    assert request.path == "/v2/models/a%20model/versions/3/infer"
    assert request.headers["content-type"] == "application/octet-stream"
    assert request.headers["x-request-id"] == "7"
    assert json.loads(request.body[: int(request.headers["inference-header-content-length"])])["id"] == "7"
    scripted.replies = [Reply(200, answered(*encode(sent, binary=False))[0])]
    assert client.infer("m", sent, binary=False)["y"].tolist() == [True, False]
    assert scripted.requests[1].headers["content-type"] == "application/json"
    assert "inference-header-content-length" not in scripted.requests[1].headers
    scripted.replies = [Reply(200, body, {"Inference-Header-Content-Length": "many"})]
    with pytest.raises(ServiceError, match="no number"):
        client.infer("m", sent)


# As tritonclient speaks


DATATYPE = {dtype: name for name, dtype in DTYPES.items()} | {np.dtype(object): BYTES}


def its_inputs(tensors: dict[str, NDArray[Any]], binary: bool) -> list[Any]:
    inputs = []
    for name, array in tensors.items():
        one = triton.InferInput(name, list(array.shape), DATATYPE[array.dtype])
        inputs.append(one.set_data_from_numpy(array, binary_data=binary))
    return inputs


@given(tensors=TENSORS, binary=st.booleans(), outputs=st.none() | st.lists(st.text(min_size=1, max_size=3), min_size=1))
def test_requests_are_what_tritonclient_sends(
    tensors: dict[str, NDArray[Any]], binary: bool, outputs: list[str] | None
) -> None:
    try:
        body, length = encode(tensors, outputs, binary, {"adapter": "a"}, "7")
    except InputError:
        return  # in JSON: what the protocol cannot say
    wanted = outputs and [triton.InferRequestedOutput(name, binary_data=binary) for name in outputs]
    inputs = its_inputs(tensors, binary)
    its_body, its_length = triton.InferenceServerClient.generate_request_body(
        inputs, outputs=wanted, request_id="7", parameters={"adapter": "a"}
    )
    assert (length is None) == (its_length is None)
    ours, its = json.loads(body[:length]), json.loads(its_body[:its_length])
    if not binary and outputs is None:
        assert its["parameters"].pop("binary_data_output")  # it asks for binary all the same
    assert ours == its
    assert length is None or body[length:] == its_body[its_length:]


@given(tensors=TENSORS, binary=st.booleans())
def test_answers_are_what_tritonclient_reads(tensors: dict[str, NDArray[Any]], binary: bool) -> None:
    try:
        body, length = answered(*encode(tensors, binary=binary))
    except InputError:
        return
    its = triton.InferenceServerClient.parse_response_body(body, header_length=length)
    for name, found in decode(body, length).items():
        if not (found.dtype.kind == "O" and not binary):  # it leaves texts of JSON as str
            assert_same(found, np.asarray(its.as_numpy(name)))
