"""The Open Inference Protocol over real gRPC: as tritonclient speaks it, and by messages that it never sends."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.http as triton_http
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from serving.app import create_app
from serving.auth.access import GRPC
from serving.metrics import Metrics
from serving.protocols import _kserve_pb2 as pb
from serving.protocols._kserve_messages import decode
from serving.protocols._kserve_rpcs import CODES, SERVICE, Calls, code_of
from serving.protocols.kserve_grpc import KServeGrpc
from serving.repository import Repository
from serving.service import Service
from serving.settings import Settings
from tests.serving.building import PATIENCE, Linear, Running, items, random_rows, running, wait_until
from tests.serving.index import colours
from tests.serving.protocols import echo
from tests.serving.protocols.keys import KEYS, SLOW, WRITER, Bearer, bearer
from tests.serving.protocols.test_kserve_http import tensors as http_tensors
from tests.serving.test_errors import KINDS
from wander.errors import (
    Forbidden,
    InputError,
    MissingDependency,
    NotReady,
    Overloaded,
    ServiceError,
    UsageError,
    WanderError,
)
from wander.signature import DType

Code = grpc.StatusCode


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.grpc) as client:
        yield client


@pytest.fixture(scope="module")
def stub(server: Running) -> Iterator[Any]:
    """Messages as they are, without a client that would correct them."""
    with grpc.insecure_channel(server.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture
def fake(folder: Path) -> Iterator[Running]:
    """A server with the fake engine, whose queues hold four rows."""
    with running(Settings(models=folder, engine="fake", instances=1, max_queue_rows=4, grpc_port=0)) as started:
        yield started
        started.session("mosi").gate.set()


def tensors(arrays: dict[str, NDArray[Any]]) -> list[Any]:
    given = []
    for name, array in arrays.items():
        one = triton.InferInput(name, list(array.shape), triton.np_to_triton_dtype(array.dtype))
        given.append(one.set_data_from_numpy(array))
    return given


FIELDS = {
    "bool": "bool_contents",
    "int8": "int_contents",
    "int32": "int_contents",
    "int64": "int64_contents",
    "uint8": "uint_contents",
    "float32": "fp32_contents",
    "float64": "fp64_contents",
}


def request(arrays: dict[str, NDArray[Any]], model: str = "mosi", raw: bool = True, messages: Any = pb) -> Any:
    """A message with raw or typed contents."""
    message = messages.ModelInferRequest(model_name=model)
    for name, array in arrays.items():
        datatype = triton.np_to_triton_dtype(array.dtype)
        one = message.inputs.add(name=name, datatype=datatype, shape=array.shape)
        if raw:
            message.raw_input_contents.append(array.tobytes())
        else:
            getattr(one.contents, FIELDS[array.dtype.name]).extend(array.reshape(-1).tolist())
    return message


def infer(stub: Any, message: Any) -> tuple[Code, str]:
    """The code and the text with which a message is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(service_pb2.ModelInferRequest.FromString(message.SerializeToString()), timeout=PATIENCE)
    return caught.value.code(), caught.value.details()


# the server and its models


def test_server(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    described = client.get_server_metadata(as_json=True)
    assert described["name"] == "wander"
    assert "statistics" in described["extensions"]


def test_what_is_said_over_http_is_said_here(server: Running, client: triton.InferenceServerClient) -> None:
    for name in ("mosi", "colours-text", *(f"echo-{dtype}" for dtype in echo.KINDS)):
        told = client.get_model_metadata(name, as_json=True)
        for tensor in told["inputs"] + told["outputs"]:
            tensor["shape"] = [int(size) for size in tensor["shape"]]  # which JSON of protobuf has as strings
        assert told == server.client.get(f"/v2/models/{name}").json()
        config, over_http = client.get_model_config(name).config, server.client.get(f"/v2/models/{name}/config").json()
        assert config.max_batch_size == over_http["max_batch_size"]
        assert [list(one.dims) for one in config.input] == [one["dims"] for one in over_http["input"]]
        kinds = [client.get_model_config(name, as_json=True)["config"]["input"][i]["data_type"] for i in range(1)]
        assert kinds == [over_http["input"][0]["data_type"]]
    index = client.get_model_repository_index(as_json=True)["models"]
    assert [{"reason": "", **one} for one in index] == server.post("/v2/repository/index").json()


@pytest.mark.parametrize(
    ("name", "version", "ready"), [("mosi", "", True), ("mosi", "old", True), ("mosi", "9", False), ("no", "", False)]
)
def test_ready(client: triton.InferenceServerClient, name: str, version: str, ready: bool) -> None:
    assert client.is_model_ready(name, version) == ready


@pytest.mark.parametrize("name", ["nobody", "colours"])
def test_what_is_not_there(client: triton.InferenceServerClient, name: str) -> None:
    for ask in (client.get_model_metadata, client.get_model_config, client.get_inference_statistics):
        with pytest.raises(InferenceServerException) as caught:
            ask(name)
        assert caught.value.status() == "StatusCode.NOT_FOUND"


def test_unknown_calls(stub: Any) -> None:
    for call, message in (
        (stub.SystemSharedMemoryStatus, service_pb2.SystemSharedMemoryStatusRequest()),
        (stub.TraceSetting, service_pb2.TraceSettingRequest()),
        (stub.LogSettings, service_pb2.LogSettingsRequest()),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call(message)
        assert caught.value.code() is Code.UNIMPLEMENTED


# inference


def test_answers_as_v1_and_http_do(server: Running, client: triton.InferenceServerClient) -> None:
    results = server.post("/v1/sentiment", json={"items": items(3)}).json()["results"]
    answer = client.infer("mosi", tensors(random_rows(3)), outputs=[triton.InferRequestedOutput("score")])
    scores = answer.as_numpy("score")
    assert (scores.dtype, scores.shape) == (np.float32, (3, 1))
    assert scores[:, 0] == pytest.approx([result["score"] for result in results], abs=1e-6)
    with triton_http.InferenceServerClient("{}:{}".format(*server.address)) as other:
        same = other.infer("mosi", http_tensors(random_rows(3))).as_numpy("score")
    assert np.array_equal(scores, same)


def test_async_client(server: Running) -> None:
    async def ask() -> Any:
        async with triton_aio.InferenceServerClient(server.grpc) as client:
            assert await client.is_model_ready("mosi")
            return await asyncio.gather(*(client.infer("mosi", tensors(random_rows(2, seed))) for seed in range(8)))

    for seed, answer in enumerate(asyncio.run(ask())):
        expected = Linear("sentiment")(random_rows(2, seed))["score"]
        assert answer.as_numpy("score") == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("version", "seed"), [("1", 1), ("2", 0), ("old", 1), ("latest", 0), ("", 0)])
def test_versions(client: triton.InferenceServerClient, version: str, seed: int) -> None:
    answer = client.infer("mosi", tensors(random_rows(1)), version)
    assert answer.as_numpy("score") == pytest.approx(Linear("sentiment", seed)(random_rows(1))["score"], abs=1e-5)
    assert answer.get_response().model_version == ("1" if seed else "2")


@pytest.mark.parametrize("tower", ["image", "text"])
def test_every_tower_can_be_asked(keyed: Running, client: triton.InferenceServerClient, tower: str) -> None:
    given = np.array([[1, 0, 0]], np.float32) + np.float32(1e-3)
    embedding = client.infer(f"colours-{tower}", tensors({"colours": given})).as_numpy("embedding")[0]
    body: dict[str, Any] = {"json": {"text": "red"}}
    if tower == "image":
        body = {"files": {"image": colours.picture(255, 0, 0)}}
    assert embedding == pytest.approx(keyed.post("/v1/colours/embed", **body).json()["embedding"], abs=1e-6)


@pytest.mark.parametrize("dtype", echo.KINDS)
@pytest.mark.parametrize("raw", [True, False])
def test_every_dtype(stub: Any, client: triton.InferenceServerClient, dtype: DType, raw: bool) -> None:
    given = {"x": echo.values(dtype)}
    if not raw and dtype == "float16":
        return  # the protocol has no field for it
    answer = stub.ModelInfer(request(given, f"echo-{dtype}", raw, service_pb2))
    (output,) = answer.outputs
    assert bool(answer.raw_output_contents) == raw
    data = (
        np.frombuffer(answer.raw_output_contents[0], dtype)
        if raw
        else np.array(getattr(output.contents, FIELDS[dtype]), dtype)
    )
    assert np.array_equal(data.reshape(output.shape), given["x"])
    assert output.datatype == triton.np_to_triton_dtype(np.dtype(dtype))
    assert np.array_equal(client.infer(f"echo-{dtype}", tensors(given)).as_numpy("tokens"), given["x"])


def test_id_and_parameters_come_back(client: triton.InferenceServerClient) -> None:
    answer = client.infer(
        "mosi",
        tensors(random_rows(1)),
        request_id="é 7",
        priority=1,
        timeout=10**7,
        parameters={"adapter": "linear", "mine": True},
    ).get_response()
    assert answer.id == "é 7"
    told = {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in answer.parameters.items()}
    assert told == {"adapter": "linear", "priority": 1, "timeout": 10**7, "mine": True}


def test_not_finite_passes(client: triton.InferenceServerClient) -> None:
    given = np.array([[[np.nan], [np.inf]]], np.float32)
    told = client.infer("echo-float32", tensors({"x": given})).as_numpy("tokens")
    assert np.array_equal(told, given, equal_nan=True)


def test_stream(client: triton.InferenceServerClient) -> None:
    """Answers come in order, and an error is the answer to its request alone."""
    said: Queue[tuple[Any, Any]] = Queue()
    client.start_stream(lambda result, error: said.put((result, error)))
    for number, model in enumerate(("mosi", "nobody", "mosi")):
        client.async_stream_infer(model, tensors(random_rows(1, number)), request_id=str(number))
    results = [said.get(timeout=PATIENCE) for _ in range(3)]
    client.stop_stream()
    assert [None if error is None else "nobody" in str(error) for _, error in results] == [None, True, None]
    for number in (0, 2):
        answer = results[number][0]
        assert answer.get_response().id == str(number)
        expected = Linear("sentiment")(random_rows(1, number))["score"]
        assert answer.as_numpy("score") == pytest.approx(expected, abs=1e-5)


def changed(change: Callable[[Any], object], raw: bool = True) -> Any:
    message = request(random_rows(2), raw=raw)
    change(message)
    return message


def cleared(message: Any) -> None:
    del message.inputs[:]


@pytest.mark.parametrize(
    ("message", "code", "text"),
    [
        (changed(cleared), Code.INVALID_ARGUMENT, "inputs: "),
        (changed(lambda m: m.raw_input_contents.pop()), Code.INVALID_ARGUMENT, "raw_input_contents: "),
        (changed(lambda m: m.raw_input_contents.append(b"")), Code.INVALID_ARGUMENT, "raw_input_contents: "),
        (changed(lambda m: setattr(m.inputs[1], "name", "text")), Code.INVALID_ARGUMENT, "inputs[1].name: "),
        (changed(lambda m: setattr(m.inputs[1], "name", "smell")), Code.INVALID_ARGUMENT, "smell: "),
        (changed(lambda m: setattr(m.inputs[0], "datatype", "FP31")), Code.INVALID_ARGUMENT, "inputs[0].datatype: "),
        (changed(lambda m: setattr(m.inputs[0], "datatype", "BYTES")), Code.INVALID_ARGUMENT, "inputs[0].datatype: "),
        (changed(lambda m: setattr(m.inputs[0], "datatype", "FP64")), Code.INVALID_ARGUMENT, "inputs[0].shape: "),
        (changed(lambda m: m.inputs[0].shape.insert(0, -1)), Code.INVALID_ARGUMENT, "inputs[0].shape: "),
        (changed(lambda m: m.inputs[0].shape.append(2**62)), Code.INVALID_ARGUMENT, "inputs[0].shape: "),
        (changed(lambda m: m.inputs[0].shape.extend([0, 2**62, 2**62])), Code.INVALID_ARGUMENT, "inputs[0].shape: "),
        (changed(lambda m: m.inputs[0].contents.fp32_contents.append(1)), Code.INVALID_ARGUMENT, "inputs[0].contents"),
        (
            changed(lambda m: m.inputs[0].contents.fp32_contents.pop(), raw=False),
            Code.INVALID_ARGUMENT,
            "inputs[0].contents.fp32_contents: ",
        ),
        (
            changed(lambda m: setattr(m.inputs[0], "datatype", "FP16"), raw=False),
            Code.INVALID_ARGUMENT,
            "inputs[0].contents: FP16",
        ),
        (changed(lambda m: m.outputs.add(name="smell")), Code.INVALID_ARGUMENT, "smell: "),
        (
            changed(lambda m: (m.outputs.add(name="score"), m.outputs.add(name="score"))),
            Code.INVALID_ARGUMENT,
            "outputs[1].name: ",
        ),
        (
            changed(lambda m: m.outputs.add(name="score").parameters["classification"].__setattr__("int64_param", 3)),
            Code.INVALID_ARGUMENT,
            "outputs[0].parameters.classification: ",
        ),
        (changed(lambda m: m.parameters["a"].SetInParent()), Code.INVALID_ARGUMENT, "parameters.a: "),
        (
            changed(lambda m: m.parameters["adapter"].__setattr__("int64_param", 3)),
            Code.INVALID_ARGUMENT,
            "parameters.adapter: ",
        ),
        (changed(lambda m: m.parameters["adapter"].__setattr__("string_param", "x")), Code.NOT_FOUND, "model 'mosi'"),
        (
            changed(lambda m: m.inputs[0].parameters["shared_memory_region"].__setattr__("string_param", "r")),
            Code.INVALID_ARGUMENT,
            "inputs[0].parameters.shared_memory_region: ",
        ),
        (changed(lambda m: setattr(m, "model_version", "9")), Code.NOT_FOUND, "model 'mosi'"),
    ],
)
def test_refused(stub: Any, message: Any, code: Code, text: str) -> None:
    told = infer(stub, message)
    assert told[0] is code
    assert told[1].startswith(text)


def test_numbers_beyond_the_dtype(stub: Any) -> None:
    message = request({"x": echo.values("int8")}, "echo-int8", raw=False)
    message.inputs[0].contents.int_contents[3] = 300
    assert infer(stub, message)[0] is Code.INVALID_ARGUMENT


@given(st.binary(max_size=300))
def test_any_message_is_read_or_refused(data: bytes) -> None:
    message = request(random_rows(1))
    whole = message.SerializeToString()
    for wild in (data, whole + data, whole[: len(data)] + data + whole[len(data) :]):
        try:
            parsed = pb.ModelInferRequest.FromString(wild)
        except DecodeError:  # to which gRPC itself answers
            continue
        try:
            decode(parsed)
        except InputError:
            continue


# errors


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_has_a_code(kind: type[ServiceError]) -> None:
    assert any(parent in CODES for parent in kind.__mro__[:2])  # its own, or that of its parent
    assert code_of(kind("why")) is not Code.UNKNOWN


@pytest.mark.parametrize("kind", KINDS)
def test_every_error(server: Running, stub: Any, monkeypatch: pytest.MonkeyPatch, kind: type[ServiceError]) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise kind("this is why")

    monkeypatch.setattr(server.service, "infer", fail)
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request(random_rows(1), messages=service_pb2))
    assert caught.value.code() is code_of(kind("why"))
    assert caught.value.details() == "this is why"
    metadata = {key for key, _ in caught.value.trailing_metadata()}
    assert ("retry-after" in metadata) == issubclass(kind, Overloaded | NotReady)


def test_unforeseen_error_tells_the_log_alone(
    server: Running, stub: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(server.service, "infer", fail)
    code, text = infer(stub, request(random_rows(1)))
    assert code is Code.INTERNAL
    assert "secret" not in text
    assert "RuntimeError: a secret" in caplog.text  # with its traceback
    caplog.clear()
    answers = list(stub.ModelStreamInfer(iter([request(random_rows(1)), request(random_rows(1))])))
    assert [("internal error" in one.error_message, "secret" in one.error_message) for one in answers] == [
        (True, False)
    ] * 2  # the stream goes on
    assert caplog.text.count("RuntimeError: a secret") == 2


def test_message_that_is_too_large(stub: Any) -> None:
    assert infer(stub, request({"x": np.zeros((1 << 18) + 1, np.float32)}))[0] is Code.RESOURCE_EXHAUSTED


def test_metrics(server: Running, stub: Any) -> None:
    stub.ModelInfer(request(random_rows(1), messages=service_pb2))
    infer(stub, request(random_rows(1), model="client-made"))
    count = server.service.metrics.registry.get_sample_value
    for status in ("OK", "NOT_FOUND"):
        assert count("wander_request_seconds_count", {"route": "grpc/ModelInfer", "status": status})
    assert "client-made" not in server.client.get("/metrics").text


# deadlines, and clients that go


def test_deadlines(fake: Running) -> None:
    session, queue = fake.session("mosi"), fake.service.repository.get("mosi").queues["model"]
    session.gate.clear()
    session.batches.clear()
    with grpc.insecure_channel(fake.grpc) as channel, ThreadPoolExecutor() as pool:
        ask = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        first = pool.submit(ask, request(random_rows(1), messages=service_pb2))
        wait_until(lambda: bool(session.batches))
        with pytest.raises(grpc.RpcError) as caught:
            ask(request(random_rows(1), messages=service_pb2), timeout=0.05)
        assert caught.value.code() is Code.DEADLINE_EXCEEDED
        message = request(random_rows(1), messages=service_pb2)
        message.parameters["timeout"].int64_param = 20_000
        with pytest.raises(grpc.RpcError) as caught:
            ask(message)
        assert caught.value.code() is Code.DEADLINE_EXCEEDED
        wait_until(lambda: queue.queue_rows == 0)
        session.gate.set()
        assert first.result(PATIENCE).outputs
    assert session.batches == [1]


def test_cancelled_rows_leave_the_queue(fake: Running) -> None:
    session, queue = fake.session("mosi"), fake.service.repository.get("mosi").queues["model"]
    session.gate.clear()
    session.batches.clear()
    with grpc.insecure_channel(fake.grpc) as channel:
        ask = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        calls = [ask.future(request(random_rows(1), messages=service_pb2))]
        wait_until(lambda: bool(session.batches))
        calls.append(ask.future(request(random_rows(1), messages=service_pb2)))
        wait_until(lambda: queue.queue_rows == 1)
        for call in calls:
            call.cancel()
        wait_until(lambda: queue.queue_rows == 0)
        count = fake.service.metrics.registry.get_sample_value
        labels = {"route": "grpc/ModelInfer", "status": "CANCELLED"}
        wait_until(lambda: count("wander_request_seconds_count", labels) == 2)
        session.gate.set()
        assert ask(request(random_rows(1), messages=service_pb2)).outputs
    assert session.batches == [1, 1]


def test_full_queue(fake: Running) -> None:
    with triton.InferenceServerClient(fake.grpc) as client:
        fake.session("mosi").gate.clear()
        with pytest.raises(InferenceServerException) as caught:
            client.infer("mosi", tensors(random_rows(5)))
    assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"


# statistics and the repository


def test_statistics(server: Running, client: triton.InferenceServerClient) -> None:
    client.infer("mosi", tensors(random_rows(3)))
    (told,) = client.get_inference_statistics("mosi", "2").model_stats
    over_http = server.client.get("/v2/models/mosi/versions/2/stats").json()["model_stats"][0]
    assert told.inference_count == over_http["inference_count"] > 0
    assert told.inference_stats.success.ns == over_http["inference_stats"]["success"]["ns"]
    assert [batch.batch_size for batch in told.batch_stats] == [
        batch["batch_size"] for batch in over_http["batch_stats"]
    ]
    assert len(client.get_inference_statistics().model_stats) == 4 + len(echo.KINDS)


def test_repository(tmp_path: Path, folder: Path) -> None:
    for name in ("mosi", "colours"):
        shutil.copytree(folder / name, tmp_path / name)
    with (
        running(Settings(models=tmp_path, model_control="explicit", keys=KEYS, grpc_port=0)) as server,
        triton.InferenceServerClient(server.grpc) as client,
    ):
        client.register_plugin(Bearer())
        client.unload_model("mosi")
        assert not client.is_model_ready("mosi")
        assert {one.name for one in client.get_model_repository_index().models if one.state == "READY"} == {"colours"}
        client.load_model("mosi")
        assert client.is_model_ready("mosi")
        with pytest.raises(InferenceServerException, match="name that one"):
            client.load_model("colours-text")
        with pytest.raises(InferenceServerException) as caught:
            client.load_model("mosi", config="{}")
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_control_must_be_asked_for(folder: Path) -> None:
    with (
        running(Settings(models=folder, engine="fake", keys=KEYS, grpc_port=0)) as server,
        triton.InferenceServerClient(server.grpc) as client,
    ):
        for call in (client.load_model, client.unload_model):
            with pytest.raises(InferenceServerException, match="--model-control explicit") as caught:
                call("mosi", headers=bearer())
            assert caught.value.status() == "StatusCode.PERMISSION_DENIED"


# keys


def test_every_call_is_in_the_table_of_access(server: Running) -> None:
    calls = Calls(server.service).handler()._method_handlers
    assert set(calls) == {f"/{SERVICE}/{name}" for name in GRPC}


@pytest.mark.parametrize("name", [name for name in GRPC if name != "ModelStreamInfer"])
def test_every_call_asks_for_its_key(keyed: Running, name: str) -> None:
    message = getattr(service_pb2, f"{name}Request")()
    with grpc.insecure_channel(keyed.grpc) as channel:
        call = getattr(service_pb2_grpc.GRPCInferenceServiceStub(channel), name)

        def code(*metadata: tuple[str, str]) -> Code:
            try:
                call(message, metadata=metadata)
            except grpc.RpcError as error:
                return error.code()
            return Code.OK

        mine, other = bearer()["authorization"], bearer(WRITER)["authorization"]
        wrong = {code(), code(("authorization", "Bearer x")), code(("authorization", mine), ("authorization", mine))}
        if GRPC[name] == "open":
            assert code() is Code.OK
        else:
            assert wrong == {Code.UNAUTHENTICATED}
            assert code(("authorization", other)) is Code.PERMISSION_DENIED
            assert code(("authorization", mine)) not in (Code.UNAUTHENTICATED, Code.PERMISSION_DENIED)


def test_without_keys_nobody_controls_models(server: Running, client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.unload_model("mosi")
    assert caught.value.status() == "StatusCode.PERMISSION_DENIED"
    assert client.is_model_ready("mosi")


def streamed(target: str, requests: int, **headers: str) -> list[Any]:
    """Errors of the answers to so many requests in a stream, None for those without; of a stream of none, its own."""
    said: Queue[Any] = Queue()
    with triton.InferenceServerClient(target) as client:
        client.start_stream(lambda result, error: said.put(error), headers=headers)
        for _ in range(requests):
            client.async_stream_infer("mosi", tensors(random_rows(1)))
        errors = [said.get(timeout=PATIENCE) for _ in range(max(1, requests))]
        client.stop_stream(cancel_requests=True)
    return errors


def test_stream_asks_for_a_key_and_counts_its_requests(keyed: Running) -> None:
    for headers, code in (({}, "UNAUTHENTICATED"), (bearer(WRITER), "PERMISSION_DENIED")):
        (error,) = streamed(keyed.grpc, 0, **headers)
        assert error.status() == f"StatusCode.{code}"
    answers = streamed(keyed.grpc, 3, **bearer(SLOW))
    assert answers[:2] == [None, None]
    assert "this key may ask" in str(answers[2])


# the port


def protocol(**settings: Any) -> KServeGrpc:
    chosen, metrics = Settings(**settings), Metrics()
    return KServeGrpc(Service(Repository(chosen, metrics), chosen, metrics))


def test_missing_package_names_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    protocol()
    with pytest.raises(MissingDependency, match=r"pip install 'wander\[grpc\]'"):
        protocol(grpc_port=0)


@pytest.mark.parametrize("name", ["repository_load", "repository_unload"])
def test_models_of_several_workers_are_controlled_over_http(name: str) -> None:
    calls = Calls(protocol(workers=2).service)
    with pytest.raises(Forbidden, match="/v2/repository"):
        asyncio.run(getattr(calls, name)(None, None))


def test_workers_must_share_a_port() -> None:
    with pytest.raises(UsageError, match="workers"):
        protocol(grpc_port=0, workers=2)


def test_port_that_is_taken(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(models=folder, grpc_port=taken.getsockname()[1])
        failures: list[WanderError] = []
        with running(settings, create_app(settings, on_failure=failures.append)):
            assert isinstance(failures[0], UsageError)
            assert "for gRPC" in str(failures[0])


def test_port_is_announced(command: Callable[..., Any]) -> None:
    line = next(line for line in command("--grpc-port", "0").announced if "gRPC" in line)
    with triton.InferenceServerClient(line.removeprefix("serving gRPC on ")) as client:
        assert client.is_server_ready()
        assert client.infer("mosi", tensors(random_rows(1))).as_numpy("score").shape == (1, 1)
