"""`/v1` over real HTTP, with a real graph."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from serving.settings import Settings
from tests.serving.building import Linear, Running, item, items, npz, random_rows, running

MULTIPART = "multipart/form-data; boundary=x"
NAN, INFINITY = float("nan"), float("inf")


def score(row: int = 0, rows: int = 1) -> Any:
    """What the sentiment model says of a row of `items(rows)`."""
    return pytest.approx(float(Linear("sentiment")(random_rows(rows))["score"][row, 0]), abs=1e-5)


def upload(**arrays: Any) -> dict[str, Any]:
    return {"file": ("items.npz", npz(**arrays))}


def test_single_item(server: Running) -> None:
    answer = server.post("/v1/sentiment", json=item())
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {"score", "label", "class7", "model", "version", "adapter", "timing"}
    assert body["score"] == score()
    assert body["label"] == ("positive" if body["score"] >= 0 else "negative")
    assert (body["model"], body["version"], body["adapter"]) == ("mosi", "1", "linear")
    assert set(body["timing"]) == {"queue", "preprocess", "inference", "postprocess"}


def test_emotion(server: Running) -> None:
    body = server.post("/v1/emotion", json=item()).json()
    logits = Linear("emotion")(random_rows(1))["logits"][0].astype(float)
    expected = np.exp(logits) / np.exp(logits).sum()
    assert list(body["probabilities"]) == ["angry", "happy", "sad"]
    assert list(body["probabilities"].values()) == pytest.approx(expected.tolist(), abs=1e-5)
    assert body["label"] == ("angry", "happy", "sad")[expected.argmax()]
    assert body["score"] == max(body["probabilities"].values())


def test_server_timing(server: Running) -> None:
    header = server.post("/v1/sentiment", json=item()).headers["server-timing"]
    stages = dict(part.split(";dur=") for part in header.split(", "))
    assert set(stages) == {"pre", "queue", "infer", "post"}
    assert all(float(milliseconds) >= 0 for milliseconds in stages.values())


def test_bulk_in_order(server: Running) -> None:
    results = server.post("/v1/sentiment", json={"items": items(30)}).json()["results"]
    assert [result["score"] for result in results] == [score(row, 30) for row in range(30)]


def test_bulk_with_a_bad_item(server: Running) -> None:
    many: list[Any] = items(5)
    many[2] = {**many[2], "audio": [["loud"] * 3]}
    answer = server.post("/v1/sentiment", json={"items": many})
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [set(result) == {"error"} for result in results] == [False, False, True, False, False]
    assert results[4]["score"] == score(4, 5)
    error = results[2]["error"]
    assert (error["status"], error["field"]) == (422, "items[2].audio")


def test_npz_single(server: Running) -> None:
    row = {name: value[0] for name, value in random_rows(1).items()}
    answer = server.post("/v1/sentiment", files=upload(**row))
    assert answer.status_code == 200
    assert answer.json()["score"] == score()


@pytest.mark.parametrize("dtype", ["float32", ">f4", "float64", "longdouble"])
@pytest.mark.parametrize("rows", [1, 7])
def test_npz_bulk(server: Running, rows: int, dtype: str) -> None:
    arrays = {name: np.asfortranarray(value.astype(dtype)) for name, value in random_rows(rows).items()}
    results = server.post("/v1/sentiment", files=upload(**arrays)).json()["results"]
    assert [result["score"] for result in results] == [score(row, rows) for row in range(rows)]


@pytest.mark.parametrize("place", ["query", "body", "both", "form", "form and query"])
def test_addressing(server: Running, place: str) -> None:
    address = {"model": "iemocap", "version": "1", "adapter": "linear"}
    wrong = {"model": "nobody"}
    row = {name: value[0] for name, value in random_rows(1).items()}
    request: dict[str, Any] = {
        "query": {"params": address, "json": item()},
        "body": {"json": {**item(), **address}},
        "both": {"params": wrong, "json": {**item(), **address}},  # what stands in the body is nearer
        "form": {"data": address, "files": upload(**row)},
        "form and query": {"params": address, "files": upload(**row)},
    }[place]
    answer = server.post("/v1/emotion", **request)
    assert answer.status_code == 200
    assert answer.json()["model"] == "iemocap"


@pytest.mark.parametrize(
    ("address", "status", "field"),
    [
        ({"model": "nobody"}, 404, None),
        ({"model": "mosi", "version": "9"}, 404, None),
        ({"model": "mosi", "adapter": "other"}, 404, None),
        ({"model": "iemocap"}, 404, None),
        ({"version": "1"}, 422, "model"),
    ],
)
@pytest.mark.parametrize("place", ["query", "body"])
def test_wrong_address(server: Running, address: dict[str, str], status: int, field: str | None, place: str) -> None:
    query, body = (address, item()) if place == "query" else ({}, {**item(), **address})
    answer = server.post("/v1/sentiment", params=query, json=body)
    assert answer.status_code == status
    assert answer.json().get("field") == field


@pytest.mark.parametrize("value", [1, ["mosi"], {"name": "mosi"}, True])
def test_address_must_be_a_string(server: Running, value: object) -> None:
    answer = server.post("/v1/sentiment", json={**item(), "model": value})
    assert (answer.status_code, answer.json()["field"]) == (422, "model")


@pytest.mark.parametrize("absent", [{}, {"audio": None}])
def test_missing_modality_does_what_the_manifest_declares(server: Running, absent: dict[str, None]) -> None:
    rest = {"text": item()["text"], "vision": item()["vision"], **absent}
    refused = server.post("/v1/sentiment", json=rest)
    assert (refused.status_code, refused.json()["field"]) == (422, "audio")
    padded = server.post("/v1/emotion", json=rest)
    explicit = server.post("/v1/emotion", json={**rest, "audio": [[0.5, -1.0, 2.0]] * 2})
    assert padded.status_code == explicit.status_code == 200
    assert padded.json()["probabilities"] == explicit.json()["probabilities"]


@pytest.mark.parametrize(("path", "row"), [("/v1/sentiment", [0.0, 0.0, 0.0]), ("/v1/emotion", [0.5, -1.0, 2.0])])
def test_short_sequence_is_padded_at_its_end(server: Running, path: str, row: list[float]) -> None:
    audio = item()["audio"][:1]
    answers = [server.post(path, json={**item(), "audio": rows}).json() for rows in (audio, [*audio, row])]
    for answer in answers:
        del answer["timing"]
    assert answers[0] == answers[1]


def test_long_sequence_is_refused_with_its_sizes(server: Running) -> None:
    answer = server.post("/v1/sentiment", json={**item(), "audio": [[0.0] * 3] * 5})
    assert (answer.status_code, answer.json()["field"]) == (422, "audio")
    for size in ("2", "3", "(5, 3)"):
        assert size in answer.json()["detail"]


@pytest.mark.parametrize(
    "value",
    [
        "loud",
        5,
        True,
        {"rows": []},
        [],
        [[]],
        [[], []],
        [1.0, 2.0, 3.0],
        [[1.0, 2.0]],
        [[1.0, 2.0, 3.0, 4.0]],
        [[1.0, 2.0, 3.0], [4.0]],
        [[[1.0, 2.0, 3.0]]],
        [["1", "2", "3"]],
        [[1.0, "2", 3.0]],
        [[True, False, True]],
        [[None, None, None]],
        [[1.0, None, 3.0]],
        [[{}, {}, {}]],
        [[10**60, 0, 0]],
        [[1e39, 0, 0]],
        [[-(2**63) * 10**30, 0, 0]],
    ],
    ids=repr,
)
def test_bad_values_name_their_field(server: Running, value: object) -> None:
    answer = server.post("/v1/sentiment", json={**item(), "audio": value})
    assert (answer.status_code, answer.json()["field"]) == (422, "audio")
    assert answer.headers["content-type"] == "application/problem+json"
    many = server.post("/v1/sentiment", json={"items": [item(), {**item(), "audio": value}]})
    assert many.json()["results"][1]["error"]["field"] == "items[1].audio"


@pytest.mark.parametrize(
    "array",
    [
        np.full((2, 3), NAN),
        np.full((2, 3), INFINITY),
        np.full((2, 3), 1e300),
        np.ones((2, 3), bool),
        np.ones((2, 2)),
        np.ones((9, 3)),
    ],
    ids=["nan", "infinity", "too large", "booleans", "narrow", "long"],
)
def test_bad_arrays_name_their_field(server: Running, array: Any) -> None:
    row = {name: value[0] for name, value in random_rows(1).items()}
    answer = server.post("/v1/sentiment", files=upload(**{**row, "audio": array}))
    assert (answer.status_code, answer.json()["field"]) == (422, "audio")


def test_integers_are_numbers(server: Running) -> None:
    answers = [
        server.post("/v1/sentiment", json={**item(), "audio": [[one, one, one]] * 2}).json()["score"]
        for one in (1, 1.0)
    ]
    assert answers[0] == answers[1]


def test_unknown_field(server: Running) -> None:
    answer = server.post("/v1/sentiment", json={**item(), "smell": [[1.0]]})
    assert (answer.status_code, answer.json()["field"]) == (422, "smell")
    assert "text, audio, vision" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 400, None),
        (b"{", 400, None),
        (b'{"text": [[1,]]}', 400, None),
        (b'{"text": [[NaN]]}', 400, None),
        (b'{"text": [[1e400]]}', 400, None),
        (b'{"text": "\xff"}', 400, None),
        (b'{"text": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400, None),
        (b'{"text": ' + b"[" * 100 + b"]" * 100 + b"}", 422, "text"),
        (b"[]", 422, None),
        (b"3", 422, None),
        (b"null", 422, None),
        (b'{"items": []}', 422, "items"),
        (b'{"items": {}}', 422, "items"),
        (b'{"items": null}', 422, "items"),
        (b'{"items": [{}, 3]}', 422, "items[1]"),
        (b'{"items": [{}], "text": []}', 422, "text"),
    ],
)
def test_bad_json(server: Running, body: bytes, status: int, field: str | None) -> None:
    answer = server.post("/v1/sentiment", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json().get("field")) == (status, field)


@pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", "application/x-npz", "x", ";"])
def test_media_type_that_is_not_read(server: Running, media: str) -> None:
    answer = server.post("/v1/sentiment", content=json.dumps(item()), headers={"content-type": media})
    assert answer.status_code == 415
    assert answer.json()["type"].endswith("UnsupportedMedia")


@pytest.mark.parametrize("media", [None, "application/json", "Application/JSON; charset=utf-8"])
def test_media_type_that_is_json(server: Running, media: str | None) -> None:
    headers = {} if media is None else {"content-type": media}
    assert server.post("/v1/sentiment", content=json.dumps(item()), headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("body", "media", "status"),
    [
        (b"", "multipart/form-data", 400),
        (b"garbage", MULTIPART, 400),
        (b"--x\r\nno header\r\n\r\nabc\r\n--x--", MULTIPART, 400),
        (b"--x--", MULTIPART, 422),
        (b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nmosi\r\n--x--', MULTIPART, 422),
        (b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc\r\n--x--', MULTIPART, 400),
    ],
)
def test_bad_multipart(server: Running, body: bytes, media: str, status: int) -> None:
    answer = server.post("/v1/sentiment", content=body, headers={"content-type": media})
    assert answer.status_code == status
    assert answer.json()["type"].endswith("MalformedBody" if status == 400 else "InputError")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"files": upload(text=np.ones((3, 4))), "data": {"smell": "sweet"}}, "smell"),
        ({"files": upload()}, "file"),
        ({"files": upload(text=np.ones(4), audio=np.ones((2, 3)))}, "file"),
        ({"files": upload(text=np.ones((2, 3, 4)), audio=np.ones((2, 3)))}, "file"),
        ({"files": upload(text=np.ones((2, 3, 4)), audio=np.ones((1, 2, 3)))}, "file"),
        ({"files": upload(text=np.float32(1))}, "file"),
        ({"files": upload(text=np.ones((0, 3, 4)))}, "text"),
        ({"files": upload(smell=np.ones((3, 4)))}, "smell"),
    ],
    ids=["field", "no array", "one dimension", "mixed", "rows", "scalar", "no rows", "unknown"],
)
def test_uploads_that_make_no_items(server: Running, request_: dict[str, Any], field: str) -> None:
    answer = server.post("/v1/sentiment", **request_)
    assert (answer.status_code, answer.json()["field"]) == (422, field)


def test_two_files(server: Running) -> None:
    files = [("file", ("a.npz", npz(text=np.ones((3, 4))))), ("more", ("b.npz", npz(audio=np.ones((2, 3)))))]
    assert server.post("/v1/sentiment", files=files).status_code == 400


@pytest.mark.parametrize("rows", [6, 100_000])
def test_too_many_items(models: Any, rows: int) -> None:
    """The rows of an .npz are counted before any item is made of them."""
    with running(Settings(models=models, max_items=5)) as server:
        answer = server.post("/v1/sentiment", files=upload(text=np.ones((rows, 1, 4), np.float16)))
        assert answer.status_code == 413
        assert str(rows) in answer.json()["detail"]
        answer = server.post("/v1/sentiment", json={"items": [{}] * 6})
        assert (answer.status_code, answer.json()["field"]) == (413, "items")


def test_models(server: Running) -> None:
    models = server.client.get("/v1/models").json()["models"]
    assert [model["name"] for model in models] == ["iemocap", "mosi"]
    model = models[1]
    assert (model["version"], model["task"], model["adapter"], model["adapters"]) == (
        "1",
        "sentiment",
        "linear",
        ["linear"],
    )
    assert model["precision"] == "fp32"
    assert model["engine"]["provider"] == "CPUExecutionProvider"
    graph = model["graphs"]["model"]
    assert graph["max_batch_size"] == 4
    assert graph["inputs"][0] == {"name": "text", "dtype": "float32", "dims": ["batch", 3, 4]}
    assert graph["outputs"] == [{"name": "score", "dtype": "float32", "dims": ["batch", 1]}]
    parity = model["parity"]
    assert parity["passed"] is True
    assert parity["max_rel"] < 1e-5
    assert parity["agreement"] == 1
    assert models[0]["labels"] == ["angry", "happy", "sad"]
    assert model["weights_bytes"] > 0
    assert model["items"][""]["properties"]["text"]["maxItems"] == 3
    assert models[0]["items"][""]["required"] == ["text", "vision"]
    assert server.client.get("/v1/models/mosi").json() == model


def test_unknown_model(server: Running) -> None:
    answer = server.client.get("/v1/models/nobody")
    assert answer.status_code == 404
    assert "iemocap, mosi" in answer.json()["detail"]
