"""`/v2` over real HTTP: as tritonclient speaks it, and what it never says."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from serving.app import create_app
from serving.protocols.base import STATUS
from serving.settings import Settings
from tests.serving.building import PATIENCE, Linear, Running, items, publish, random_rows, running, wait_until
from tests.serving.index import colours
from tests.serving.protocols import echo
from tests.serving.protocols.bodies import LENGTH, as_binary, as_json, outputs_of
from tests.serving.protocols.keys import KEYS, Bearer, bearer
from tests.serving.test_errors import KINDS
from wander.errors import NotReady, Overloaded, ServiceError
from wander.signature import DType

MOSI = "/v2/models/mosi/infer"


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient("{}:{}".format(*server.address)) as client:
        yield client


def tensors(arrays: dict[str, NDArray[Any]], binary: bool = True) -> list[Any]:
    """As tritonclient has them."""
    given = []
    for name, array in arrays.items():
        kind = triton.InferInput(name, list(array.shape), triton.np_to_triton_dtype(array.dtype))
        given.append(kind.set_data_from_numpy(array, binary_data=binary))
    return given


def wanted(*names: str, binary: bool = True) -> list[Any]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


def ask(server: Running, arrays: dict[str, NDArray[Any]], path: str = MOSI, **head: Any) -> httpx.Response:
    """With binary tensors."""
    body, length = as_binary(arrays, **head)
    return server.post(path, content=body, headers={LENGTH: str(length)})


def error_of(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["error"]
    return answer.status_code, body["error"]


# the server and its models


def test_server(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    described = client.get_server_metadata()
    assert described["name"] == "wander"
    assert "binary_tensor_data" in described["extensions"]


def test_not_ready_before_the_models_are_loaded(folder: Path) -> None:
    ready, gate = threading.Event(), threading.Event()
    app = create_app(Settings(models=folder), on_ready=lambda _: ready.set(), on_failure=lambda _: None)
    repository = app.state.service.repository
    load = repository.load
    repository.load = lambda: gate.wait(PATIENCE) and load()
    with running(Settings(models=folder), app) as server:
        try:
            assert server.client.get("/v2/health/live").json() == {"live": True}
            for path in ("/v2/health/ready", "/v2/models/mosi", "/v2/models/mosi/ready"):
                assert server.client.get(path).status_code == 503
            answer = ask(server, random_rows(1))
            assert error_of(answer)[0] == 503
            assert int(answer.headers["retry-after"]) >= 1
        finally:
            gate.set()
        assert ready.wait(PATIENCE)
        assert server.client.get("/v2/health/ready").json() == {"ready": True}


def test_model(client: triton.InferenceServerClient) -> None:
    described = client.get_model_metadata("mosi")
    assert described == client.get_model_metadata("mosi", "2") == client.get_model_metadata("mosi", "latest")
    assert (described["name"], sorted(described["versions"]), described["platform"]) == ("mosi", ["1", "2"], "ort_onnx")
    assert described["inputs"][0] == {"name": "text", "datatype": "FP32", "shape": [-1, 3, 4]}
    assert described["outputs"] == [{"name": "score", "datatype": "FP32", "shape": [-1, 1]}]
    config = client.get_model_config("mosi")
    assert config["max_batch_size"] == 4
    assert config["input"][0] == {"name": "text", "data_type": "TYPE_FP32", "dims": [3, 4]}


@pytest.mark.parametrize("dtype", echo.KINDS)
def test_dtypes_in_metadata(client: triton.InferenceServerClient, dtype: DType) -> None:
    described = client.get_model_metadata(f"echo-{dtype}")["inputs"][0]
    assert described["datatype"] == triton.np_to_triton_dtype(np.dtype(dtype))
    assert described["shape"] == [-1, 2, -1]


@pytest.mark.parametrize(("name", "version"), [("nobody", ""), ("mosi", "9"), ("colours", "")])
def test_what_is_not_there(client: triton.InferenceServerClient, name: str, version: str) -> None:
    assert not client.is_model_ready(name, version)
    for ask_for in (client.get_model_metadata, client.get_model_config, client.get_inference_statistics):
        with pytest.raises(InferenceServerException) as caught:
            ask_for(name, version)
        assert caught.value.status() == "404"
    with pytest.raises(InferenceServerException, match="404"):
        client.infer(name, tensors(random_rows(1)), version)


def test_bundle_of_several_graphs_names_them(server: Running) -> None:
    assert error_of(server.client.get("/v2/models/colours")) == (
        404,
        "model 'colours' has several graphs; name one of them: colours-image, colours-text",
    )


# inference


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_answers_as_v1_does(
    server: Running,
    client: triton.InferenceServerClient,
    binary_in: bool,
    binary_out: bool | None,
    compression: str | None,
) -> None:
    results = server.post("/v1/sentiment", json={"items": items(3)}).json()["results"]
    answer = client.infer(
        "mosi",
        tensors(random_rows(3), binary_in),
        outputs=None if binary_out is None else wanted("score", binary=binary_out),
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    scores = answer.as_numpy("score")
    assert (scores.dtype, scores.shape) == (np.float32, (3, 1))
    assert scores[:, 0] == pytest.approx([result["score"] for result in results], abs=1e-6)
    assert scores == pytest.approx(Linear("sentiment")(random_rows(3))["score"], abs=1e-5)
    assert ("data" in answer.get_response()["outputs"][0]) == (binary_out is False)


def test_async_client(server: Running) -> None:
    async def infer() -> Any:
        async with triton_aio.InferenceServerClient("{}:{}".format(*server.address)) as client:
            assert await client.is_server_ready()
            return await client.infer("mosi", tensors(random_rows(2)))

    scores = asyncio.run(infer()).as_numpy("score")
    assert scores == pytest.approx(Linear("sentiment")(random_rows(2))["score"], abs=1e-5)


@pytest.mark.parametrize("nested", [True, False])
def test_plain_json(server: Running, nested: bool) -> None:
    answer = server.post(MOSI, json=as_json(random_rows(2), nested))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert LENGTH not in answer.headers
    body = answer.json()
    assert set(body) == {"model_name", "model_version", "parameters", "outputs"}
    assert (body["model_name"], body["model_version"], body["parameters"]) == ("mosi", "2", {"adapter": "linear"})
    score = outputs_of(answer.content, None)["score"]
    assert score == pytest.approx(Linear("sentiment")(random_rows(2))["score"], abs=1e-5)


@pytest.mark.parametrize(("version", "seed"), [("1", 1), ("2", 0), ("old", 1), ("latest", 0)])
def test_versions(client: triton.InferenceServerClient, version: str, seed: int) -> None:
    answer = client.infer("mosi", tensors(random_rows(1)), version)
    assert answer.as_numpy("score") == pytest.approx(Linear("sentiment", seed)(random_rows(1))["score"], abs=1e-5)
    assert answer.get_response()["model_version"] == ("1" if seed else "2")


@pytest.mark.parametrize("tower", ["image", "text"])
def test_every_tower_can_be_asked(client: triton.InferenceServerClient, tower: str) -> None:
    given = np.array([[0.1, 0.2, 0.3], [1, 0, 0]], np.float32)
    answer = client.infer(f"colours-{tower}", tensors({"colours": given}))
    scaled = given * np.array([2, 1, 1], np.float32)
    expected = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
    assert answer.as_numpy("embedding") == pytest.approx(expected, abs=1e-6)
    assert answer.get_response()["model_name"] == f"colours-{tower}"


def test_tower_answers_as_v1_does(keyed: Running) -> None:
    files = {"image": ("red.png", colours.picture(255, 0, 51))}
    embedding = keyed.post("/v1/colours/embed", files=files).json()["embedding"]
    answer = ask(
        keyed, {"colours": np.array([[1, 0, 0.2]], np.float32) + np.float32(1e-3)}, "/v2/models/colours-image/infer"
    )
    assert outputs_of(answer.content, None)["embedding"][0] == pytest.approx(embedding, abs=1e-6)


@pytest.mark.parametrize("dtype", echo.KINDS)
@pytest.mark.parametrize("binary", [True, False])
def test_every_dtype(server: Running, client: triton.InferenceServerClient, dtype: DType, binary: bool) -> None:
    given = {"x": echo.values(dtype)}
    path = f"/v2/models/echo-{dtype}/infer"
    answer = (
        ask(server, given, path, parameters={"binary_data_output": True})
        if binary
        else server.post(path, json=as_json(given, nested=True))
    )
    assert answer.status_code == 200
    told = outputs_of(answer.content, answer.headers.get(LENGTH))["tokens"]
    assert (told.dtype, told.shape) == (np.dtype(dtype), given["x"].shape)
    assert np.array_equal(told, given["x"])
    if binary or dtype != "float16":  # which tritonclient writes as binary alone
        again = client.infer(f"echo-{dtype}", tensors(given, binary)).as_numpy("tokens")
        assert np.array_equal(again, given["x"])


def test_not_finite(server: Running) -> None:
    given = {"x": np.array([[[np.nan], [np.inf]]], np.float32)}
    path = "/v2/models/echo-float32/infer"
    answer = ask(server, given, path, parameters={"binary_data_output": True})
    assert np.array_equal(outputs_of(answer.content, answer.headers[LENGTH])["tokens"], given["x"], equal_nan=True)
    status, text = error_of(ask(server, given, path))
    assert status == 422
    assert "tokens comes out as values that are not finite" in text


def test_more_rows_than_a_batch(client: triton.InferenceServerClient) -> None:
    scores = client.infer("mosi", tensors(random_rows(11))).as_numpy("score")
    assert scores == pytest.approx(Linear("sentiment")(random_rows(11))["score"], abs=1e-5)


def test_id_and_parameters_come_back(server: Running, client: triton.InferenceServerClient) -> None:
    answer = client.infer(
        "mosi", tensors(random_rows(1)), request_id="é 7", priority=1, timeout=10**7, parameters={"adapter": "linear"}
    )
    told = answer.get_response()
    assert told["id"] == "é 7"
    assert told["parameters"] == {"adapter": "linear", "priority": 1, "timeout": 10**7}
    assert ask(server, random_rows(1), parameters={"mine": 1.5}).json()["parameters"] == {
        "mine": 1.5,
        "adapter": "linear",
    }


def test_server_timing(server: Running) -> None:
    header = ask(server, random_rows(1)).headers["server-timing"]
    stages = dict(part.split(";dur=") for part in header.split(", "))
    assert set(stages) == {"pre", "queue", "infer", "post"}
    assert float(stages["infer"]) > 0


@pytest.mark.parametrize(
    ("head", "field"),
    [
        ({"outputs": [{"name": "smell"}]}, "smell"),
        ({"parameters": {"adapter": 7}}, "parameters.adapter"),
        ({"parameters": {"timeout": -1}}, "parameters.timeout"),
        ({"parameters": {"timeout": "soon"}}, "parameters.timeout"),
        ({"parameters": {"priority": True}}, "parameters.priority"),
        ({"parameters": {"priority": 1.0}}, "parameters.priority"),
        ({"id": 7}, "id"),
    ],
)
def test_refused(server: Running, head: dict[str, Any], field: str) -> None:
    status, text = error_of(ask(server, random_rows(1), **head))
    assert status == 422
    assert text.startswith(f"{field}: ")


def test_adapter_that_is_not_there(server: Running) -> None:
    assert error_of(ask(server, random_rows(1), parameters={"adapter": "other"}))[0] == 404


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows.pop("audio"),
        lambda rows: rows.update(smell=rows["audio"]),
        lambda rows: rows.update(audio=rows["audio"][:, :1]),
        lambda rows: rows.update(audio=rows["audio"].astype(np.float64)),
        lambda rows: rows.update(audio=rows["audio"][:1]),
        lambda rows: rows.update({name: array[:0] for name, array in rows.items()}),
        lambda rows: rows.update(audio=np.float32(1)),
    ],
    ids=["missing", "unknown", "shape", "dtype", "rows", "no rows", "scalar"],
)
def test_tensors_that_do_not_fit(server: Running, change: Callable[[dict[str, Any]], object]) -> None:
    rows: dict[str, Any] = random_rows(2)
    change(rows)
    assert error_of(ask(server, rows))[0] == 422


@pytest.mark.parametrize("length", ["", "-1", "+1", "1.5", "x", "1" * 30, "99999"])
def test_length_of_the_json(server: Running, length: str) -> None:
    body, _ = as_binary(random_rows(1))
    assert error_of(server.post(MOSI, content=body, headers={LENGTH: length}))[0] == 400


def test_body_in_pieces(server: Running) -> None:
    body, length = as_binary(random_rows(3))
    pieces = (body[i : i + 100] for i in range(0, len(body), 100))
    answer = server.post(MOSI, content=pieces, headers={LENGTH: str(length)})
    assert answer.json()["outputs"][0]["shape"] == [3, 1]


def compressed(body: bytes, encoding: str) -> dict[str, Any]:
    return {"content": body, "headers": {"content-encoding": encoding}}


def test_encodings(server: Running) -> None:
    body = json.dumps(as_json(random_rows(1))).encode()
    assert server.post(MOSI, **compressed(body, "identity")).status_code == 200
    assert server.post(MOSI, **compressed(gzip.compress(body), "GZIP")).status_code == 200
    packed = gzip.compress(body)
    for broken in (packed[:-1], packed + b"x", packed[5:], b"", zlib.compress(body)):
        assert error_of(server.post(MOSI, **compressed(broken, "gzip")))[0] == 400
    for unknown in ("br", "gzip, gzip", ""):
        assert error_of(server.post(MOSI, **compressed(body, unknown)))[0] == 415


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_body_that_unpacks_to_too_much(server: Running, encoding: str) -> None:
    huge = bytes(1 << 28)
    packed = gzip.compress(huge, 9) if encoding == "gzip" else zlib.compress(huge, 9)
    assert len(packed) < 1 << 20
    assert error_of(server.post(MOSI, **compressed(packed, encoding)))[0] == 413


def test_body_that_is_too_large(server: Running) -> None:
    assert error_of(server.post(MOSI, content=bytes((1 << 20) + 1)))[0] == 413
    assert error_of(ask(server, random_rows(1025)))[0] == 413


# errors


@pytest.mark.parametrize("kind", KINDS)
def test_every_error(server: Running, monkeypatch: pytest.MonkeyPatch, kind: type[ServiceError]) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise kind("this is why")

    monkeypatch.setattr(server.service, "infer", fail)
    answer = ask(server, random_rows(1))
    assert error_of(answer) == (STATUS[kind], "this is why")
    assert ("retry-after" in answer.headers) == issubclass(kind, Overloaded | NotReady)


def test_unforeseen_error_tells_nothing(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(server.service, "infer", fail)
    status, text = error_of(ask(server, random_rows(1)))
    assert status == 500
    assert "secret" not in text


@pytest.mark.parametrize("path", ["/v2/nothing", "/v2/models/mosi/version/1/infer", "/v2/models/a/b/c/infer"])
def test_unknown_route(server: Running, path: str) -> None:
    assert error_of(server.post(path, json=as_json(random_rows(1))))[0] == 404


def test_inference_is_posted(server: Running) -> None:
    answer = server.client.get(MOSI)
    assert error_of(answer)[0] == 405
    assert answer.headers["allow"] == "POST"


def test_metrics_know_the_route_and_no_name_of_a_client(server: Running) -> None:
    ask(server, random_rows(1), path="/v2/models/client-made/infer")
    ask(server, random_rows(1), path="/v2/models/mosi/versions/client-made/infer")
    ask(server, random_rows(1))
    count = server.service.metrics.registry.get_sample_value
    name = "wander_request_seconds_count"
    assert count(name, {"route": "/v2/models/{name}/infer", "status": "200"})
    assert count(name, {"route": "/v2/models/{name}/infer", "status": "404"})
    assert count(name, {"route": "/v2/models/{name}/versions/{version}/infer", "status": "404"})
    assert "client-made" not in server.client.get("/metrics").text


def test_openapi_knows_inference(server: Running) -> None:
    document = server.client.get("/openapi.json").json()
    for path in ("/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer"):
        assert set(document["paths"][path]["post"]["requestBody"]["content"]) == {
            "application/json",
            "application/octet-stream",
        }
    assert "/v2/repository/index" in document["paths"]


# priorities, deadlines, clients that go


@pytest.mark.parametrize(("parameters", "bulk"), [({}, False), ({"priority": 1}, False), ({"priority": 2}, True)])
def test_priority(server: Running, monkeypatch: pytest.MonkeyPatch, parameters: dict[str, Any], bulk: bool) -> None:
    queue = server.service.repository.get("mosi").queues["model"]
    submit, seen = queue.submit, []

    async def spy(*given: Any, bulk: bool) -> Any:
        seen.append(bulk)
        return await submit(*given, bulk=bulk)

    monkeypatch.setattr(queue, "submit", spy)
    assert ask(server, random_rows(1), parameters=parameters).status_code == 200
    assert seen == [bulk]


def test_deadlines(fake: Running) -> None:
    fake.session("mosi").gate.clear()
    body, length = as_binary(random_rows(1), parameters={"timeout": 20_000})
    assert error_of(fake.post(MOSI, content=body, headers={LENGTH: str(length)}))[0] == 504
    body, length = as_binary(random_rows(1))
    headers = {LENGTH: str(length), "X-Request-Timeout-Ms": "20"}
    assert error_of(fake.post(MOSI, content=body, headers=headers))[0] == 504
    headers["X-Request-Timeout-Ms"] = "soon"
    assert error_of(fake.post(MOSI, content=body, headers=headers))[0] == 422


def test_full_queue(fake: Running) -> None:
    fake.session("mosi").gate.clear()
    answer = ask(fake, random_rows(5))
    assert error_of(answer)[0] == 429
    assert int(answer.headers["retry-after"]) >= 1


def test_full_queue_is_told_before_the_body_is_sent(fake: Running) -> None:
    """What is refused is not read; the connection can be used again."""
    session, queue = fake.session("mosi"), fake.service.repository.get("mosi").queues["model"]
    session.gate.clear()
    session.batches.clear()
    body, length = as_binary(random_rows(1))
    head = f"POST {MOSI} HTTP/1.1\r\nhost: x\r\n{LENGTH}: {length}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with ThreadPoolExecutor() as pool, socket.create_connection(fake.address, PATIENCE) as connection:
        waiting = [pool.submit(ask, fake, random_rows(1))]
        wait_until(lambda: bool(session.batches))
        waiting.append(pool.submit(ask, fake, random_rows(4)))
        wait_until(lambda: queue.queue_rows == 4)
        connection.sendall(head)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 429 ")
        session.gate.set()
        assert [one.result(PATIENCE).status_code for one in waiting] == [200, 200]
        connection.sendall(body + head + body)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


def test_client_that_hangs_up_leaves_the_queue(fake: Running) -> None:
    session, queue = fake.session("mosi"), fake.service.repository.get("mosi").queues["model"]
    session.gate.clear()
    session.batches.clear()
    body, length = as_binary(random_rows(1))
    head = f"POST {MOSI} HTTP/1.1\r\nhost: x\r\n{LENGTH}: {length}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(fake.address, PATIENCE) as first, socket.create_connection(fake.address) as second:
        first.sendall(head + body)
        wait_until(lambda: bool(session.batches))
        second.sendall(head + body)
        wait_until(lambda: queue.queue_rows == 1)
    wait_until(lambda: queue.queue_rows == 0)
    count = fake.service.metrics.registry.get_sample_value
    labels = {"route": "/v2/models/{name}/infer", "status": "499"}
    wait_until(lambda: count("wander_request_seconds_count", labels) == 2)
    session.gate.set()
    assert ask(fake, random_rows(1)).status_code == 200
    assert session.batches == [1, 1]


def test_client_that_hangs_up_while_it_sends(server: Running) -> None:
    with socket.create_connection(server.address, PATIENCE) as one:
        one.sendall(f"POST {MOSI} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{".encode())
    count = server.service.metrics.registry.get_sample_value
    labels = {"route": "/v2/models/{name}/infer", "status": "499"}
    wait_until(lambda: count("wander_request_seconds_count", labels) == 1)


# statistics


def test_statistics(folder: Path) -> None:
    with running(Settings(models=folder)) as server:
        with triton.InferenceServerClient("{}:{}".format(*server.address)) as client:
            client.infer("mosi", tensors(random_rows(3)))
            client.infer("mosi", tensors(random_rows(3)))
            client.infer("mosi", tensors(random_rows(5)))
            server.post("/v1/sentiment", json=items(1)[0])
            everything = client.get_inference_statistics()["model_stats"]
            one = client.get_inference_statistics("mosi", "2")["model_stats"]
            both = client.get_inference_statistics("mosi")["model_stats"]
        names = {"mosi", "colours-image", "colours-text", *(f"echo-{dtype}" for dtype in echo.KINDS)}
        assert {stats["name"] for stats in everything} == names
        assert sorted(stats["version"] for stats in both) == ["1", "2"]
        (stats,) = one
        batches = {batch["batch_size"]: batch["compute_infer"]["count"] for batch in stats["batch_stats"]}
        assert stats["inference_count"] == sum(rows * count for rows, count in batches.items()) == 12
        assert stats["execution_count"] == sum(batches.values()) >= 4
        total = stats["inference_stats"]
        assert [total[name]["count"] for name in ("success", "fail", "queue", "compute_infer")] == [4, 0, 4, 4]
        assert total["success"]["ns"] >= total["compute_infer"]["ns"] > 0
        assert stats["last_inference"] > 1_700_000_000_000


def test_statistics_count_failures(fake: Running) -> None:
    fake.session("mosi").poison = lambda _: True
    assert ask(fake, random_rows(1)).status_code == 500
    stats = fake.client.get("/v2/models/mosi/stats").json()["model_stats"][0]
    assert (stats["inference_stats"]["fail"]["count"], stats["inference_stats"]["success"]["count"]) == (1, 0)


# the repository


@pytest.fixture
def controlled(tmp_path: Path, folder: Path) -> Iterator[tuple[Running, triton.InferenceServerClient]]:
    """A server that starts with `mosi` and `colours`, in a folder of its own."""
    for name in ("mosi", "colours"):
        shutil.copytree(folder / name, tmp_path / "models" / name)
    settings = Settings(models=tmp_path / "models", model_control="explicit", keys=KEYS)
    with running(settings) as server, triton.InferenceServerClient("{}:{}".format(*server.address)) as client:
        server.client.headers.update(bearer())
        client.register_plugin(Bearer())
        yield server, client


def states(client: triton.InferenceServerClient) -> dict[tuple[str, str], str]:
    return {(one["name"], one["version"]): one["state"] for one in client.get_model_repository_index()}


def test_repository(controlled: tuple[Running, triton.InferenceServerClient]) -> None:
    server, client = controlled
    before = {("mosi", "1"): "READY", ("mosi", "2"): "READY", ("colours", "1"): "READY"}
    assert states(client) == before
    client.unload_model("mosi")
    assert not client.is_model_ready("mosi")
    wait_until(lambda: states(client)["mosi", "2"] == "UNAVAILABLE")
    ready = server.post("/v2/repository/index", json={"ready": True}).json()
    assert [one["name"] for one in ready] == ["colours"]
    client.load_model("mosi")
    assert states(client) == before
    assert client.infer("mosi", tensors(random_rows(1))).get_response()["model_version"] == "2"
    load = server.post("/v2/repository/models/mosi/load", json={"parameters": {"version": "1"}})
    assert (load.status_code, load.json()) == (200, {})
    assert client.infer("mosi", tensors(random_rows(1))).get_response()["model_version"] == "1"


def test_bad_version_leaves_the_old_one(controlled: tuple[Running, triton.InferenceServerClient]) -> None:
    server, client = controlled
    bundle, _ = publish(server.service.settings.models / "mosi", Linear("sentiment", seed=2))
    (bundle.path / "model.onnx").write_bytes(b"half of it")
    with pytest.raises(InferenceServerException, match="mosi was not loaded") as caught:
        client.load_model("mosi")
    assert caught.value.status() == "422"
    reasons = {one["version"]: one["reason"] for one in client.get_model_repository_index() if one["name"] == "mosi"}
    assert "model.onnx" in reasons["3"]
    assert client.infer("mosi", tensors(random_rows(1))).get_response()["model_version"] == "2"


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_towers_are_loaded_with_their_bundle(
    controlled: tuple[Running, triton.InferenceServerClient], verb: str
) -> None:
    answer = controlled[0].post(f"/v2/repository/models/colours-text/{verb}")
    assert error_of(answer) == (404, "'colours-text' is a graph of the model 'colours'; name that one")
    assert error_of(controlled[0].post(f"/v2/repository/models/nobody/{verb}"))[0] == 404


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("index", b"{", 400),
        ("index", b"[]", 422),
        ("index", b'{"ready": 1}', 422),
        ("models/mosi/load", b"{", 400),
        ("models/mosi/load", b'{"parameters": []}', 422),
        ("models/mosi/load", b'{"parameters": [1]}', 422),
        ("models/mosi/load", b'{"parameters": {"version": 1}}', 200),
        ("models/mosi/load", b'{"parameters": {"version": true}}', 422),
        ("models/mosi/load", b'{"parameters": {"version": "9"}}', 404),
        ("models/mosi/load", b'{"parameters": {"config": "{}"}}', 422),
        ("models/mosi/load", b'{"parameters": {"file:1/model.onnx": ""}}', 422),
    ],
)
def test_requests_to_the_repository(
    controlled: tuple[Running, triton.InferenceServerClient], path: str, body: bytes, status: int
) -> None:
    assert controlled[0].post(f"/v2/repository/{path}", content=body).status_code == status


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_control_must_be_asked_for(folder: Path, verb: str) -> None:
    with running(Settings(models=folder, engine="fake", keys=KEYS)) as server:
        status, text = error_of(server.post(f"/v2/repository/models/mosi/{verb}", headers=bearer()))
    assert status == 403
    assert "--model-control explicit" in text


def test_graphs_that_only_some_versions_have(tmp_path: Path, folder: Path) -> None:
    """The name of a graph that the default version has not is not found, and the version that has it is."""
    shutil.copytree(folder / "colours" / "1", tmp_path / "both" / "1")
    publish(tmp_path / "both", Linear("sentiment"))
    (tmp_path / "both" / "aliases.json").write_text('{"towers": "1"}')
    with running(Settings(models=tmp_path)) as server:
        assert ask(server, random_rows(1), "/v2/models/both/infer").status_code == 200
        assert error_of(server.client.get("/v2/models/both-text"))[0] == 404
        assert server.client.get("/v2/models/both-text/versions/towers").status_code == 200
        status, text = error_of(server.client.get("/v2/models/both/versions/1"))
        assert (status, "both-image, both-text" in text) == (404, True)
