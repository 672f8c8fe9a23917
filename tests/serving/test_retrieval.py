"""`/v1/retrieval` over real HTTP, with two real towers."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.app import create_app
from serving.index import Indexes, Item
from serving.settings import Settings
from tests.serving.building import Linear, Running, running
from tests.serving.building import publish as publish_sentiment
from tests.serving.index.colours import picture, publish, registered

RED, GREEN, BLUE = picture(250, 10, 10), picture(10, 250, 10), picture(10, 10, 250)
ITEMS = "/v1/retrieval/things/items"
SEARCH = "/v1/retrieval/things/search"
MAX_ITEMS = 8
MAX_BODY = 200_000


def b64(file: bytes) -> str:
    return base64.b64encode(file).decode()


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a model that makes vectors and one that makes none."""
    with registered():
        folder = tmp_path_factory.mktemp("towers")
        publish(folder / "colours")
        publish_sentiment(folder / "mosi", Linear("sentiment"))
        yield folder


@pytest.fixture
def settings(towers: Path, tmp_path: Path) -> Settings:
    return Settings(models=towers, indexes=tmp_path / "indexes", max_items=MAX_ITEMS, max_body_bytes=MAX_BODY)


@pytest.fixture
def server(settings: Settings) -> Iterator[Running]:
    with running(settings) as started:
        yield started


def put(server: Running, id: str, **item: Any) -> httpx.Response:
    return server.client.put(f"{ITEMS}/{id}", json=item)


def put_lines(server: Running, *lines: Any, path: str = ITEMS, **more: Any) -> httpx.Response:
    content = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    return server.client.put(path, content=content, headers={"content-type": "application/x-ndjson"}, **more)


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [hit["id"] for hit in answer.json()["hits"]]


@pytest.fixture(scope="module")
def filled(towers: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with an index that no test changes for good."""
    folder = tmp_path_factory.mktemp("filled")
    with running(Settings(models=towers, indexes=folder, max_items=MAX_ITEMS, max_body_bytes=MAX_BODY)) as started:
        fill(started)
        yield started


def fill(server: Running) -> None:
    """Puts names of colours and pictures of them."""
    lines = [{"id": name, "text": name, "metadata": {"kind": "word"}} for name in ("red", "green", "blue")]
    for name, file in (("r.png", RED), ("g.png", GREEN), ("b.png", BLUE)):
        lines.append({"id": name, "image": b64(file), "metadata": {"kind": "picture", "warm": name == "r.png"}})
    assert all("error" not in result for result in put_lines(server, *lines).json()["results"])


def problem(answer: httpx.Response) -> tuple[int, str | None]:
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == answer.status_code
    return answer.status_code, body.get("field")


# What is found


def test_text_finds_images_and_image_finds_texts(filled: Running) -> None:
    assert ids(filled.post(SEARCH, json={"text": "red", "modality": "image"}))[0] == "r.png"
    assert ids(filled.post(SEARCH, json={"image": b64(GREEN), "modality": "text"}))[0] == "green"
    form = {"modality": "text", "top_k": "2", "filter": '{"kind": "word"}'}
    assert ids(filled.post(SEARCH, data=form, files={"image": ("x.png", BLUE)}))[0] == "blue"
    assert len(ids(filled.post(SEARCH, data=form, files={"image": ("x.png", BLUE)}))) == 2


def test_answer_of_a_search(filled: Running) -> None:
    body = filled.post(SEARCH, json={"text": "red", "top_k": 2}).json()
    assert (body["recall"], body["recall_of"]) == (None, None)
    assert set(body) == {"hits", "index", "mode", "recall", "recall_of", "model", "version", "adapter", "timing"}
    assert (body["index"], body["mode"]) == ("things", "exact")
    assert (body["model"], body["version"], body["adapter"]) == ("colours", "1", "multiway")
    assert set(body["timing"]) == {"queue", "preprocess", "inference", "postprocess", "search"}
    assert [hit["id"] for hit in body["hits"]] == ["red", "r.png"]
    assert body["hits"][0] == {
        "id": "red",
        "score": pytest.approx(1, abs=1e-5),
        "modality": "text",
        "metadata": {"kind": "word"},
    }


def test_item_finds_others(filled: Running) -> None:
    body = filled.post(SEARCH, json={"id": "red", "top_k": 1}).json()
    assert [hit["id"] for hit in body["hits"]] == ["r.png"]
    assert (body["model"], body["timing"]["inference"]) == ("colours", 0)
    assert "red" not in ids(filled.post(SEARCH, json={"id": "red", "model": "colours"}))


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"kind": "picture"}, {"r.png", "g.png", "b.png"}),
        ({"kind": "picture", "warm": True}, {"r.png"}),
        ({"warm": 1}, set()),
        ({"warm": None}, set()),
        ({"nothing": None}, set()),
        ({}, {"r.png", "g.png", "b.png", "red", "green", "blue"}),
    ],
)
def test_filter(filled: Running, wanted: dict[str, Any], found: set[str]) -> None:
    assert set(ids(filled.post(SEARCH, json={"text": "red", "filter": wanted}))) == found


def test_unknown_modality_finds_nothing(filled: Running) -> None:
    assert ids(filled.post(SEARCH, json={"text": "red", "modality": "smell"})) == []


# Items


@pytest.mark.parametrize(
    "id", ["a", "folder/a b.jpg", "é", "100%", "a?b#c", "..x", "'; DROP TABLE item; --", "x" * 256]
)
def test_life_of_an_item(filled: Running, id: str) -> None:
    path = f"{ITEMS}/{quote(id, safe='')}"
    answer = filled.client.put(path, files={"image": ("x.png", RED)}, data={"metadata": '{"n": [1, {"x": null}]}'})
    body = answer.json()
    assert answer.status_code == 200, body
    assert set(body) == {"index", "id", "modality", "metadata", "model", "version", "adapter", "timing"}
    kept = {"index": "things", "id": id, "modality": "image", "metadata": {"n": [1, {"x": None}]}}
    assert {name: body[name] for name in kept} == kept
    assert filled.client.get(path).json() == kept
    assert filled.client.put(path, json={"text": "blue"}).json()["modality"] == "text"
    assert filled.client.get(path).json() == {**kept, "modality": "text", "metadata": {}}
    for deleted in (True, False):
        assert filled.client.delete(path).json() == {"index": "things", "id": id, "deleted": deleted}
    assert problem(filled.client.get(path)) == (404, None)
    assert problem(filled.post(SEARCH, json={"id": id})) == (404, None)


def test_pages(filled: Running) -> None:
    seen: list[str] = []
    after = ""
    while after is not None:
        body = filled.client.get(ITEMS, params={"limit": 4, "after": after}).json()
        assert len(body["items"]) <= 4
        seen += [item["id"] for item in body["items"]]
        after = body["next"]
    assert seen == sorted(["red", "green", "blue", "r.png", "g.png", "b.png"])
    everything = filled.client.get(ITEMS).json()
    assert everything["next"] is None
    metadata = {"kind": "picture", "warm": False}
    assert everything["items"][0] == {"id": "b.png", "modality": "image", "metadata": metadata}


def test_bulk_with_bad_lines(server: Running) -> None:
    good = {"id": "a", "text": "red"}
    answer = put_lines(
        server,
        good,
        b"{",
        b"",
        b"[]",
        {"text": "red"},
        {"id": "b", "text": "red", "metadata": 3},
        {"id": "c", "image": "***"},
        {"id": "d", "image": b64(b"no image")},
        {"id": "a", "text": "blue", "metadata": {"last": True}},
    )
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [result.get("error", {}).get("status") for result in results] == [None, 400, *[422] * 5, None]
    fields = ["items[1]", "items[2]", "items[3].id", "items[4].metadata", "items[5].image", "items[6].image"]
    assert [result["error"]["field"] for result in results[1:-1]] == fields
    assert results[0]["id"] == "a"
    assert {"id", "modality", "model", "version", "adapter", "timing"} == set(results[0])
    kept = server.client.get(ITEMS).json()["items"]
    assert kept == [{"id": "a", "modality": "text", "metadata": {"last": True}}]


def test_bulk_without_a_good_line_makes_no_index(server: Running) -> None:
    assert put_lines(server, b"{").json()["results"][0]["error"]["status"] == 400
    assert server.client.get("/v1/retrieval").json() == {"indexes": []}


# Indexes


def test_indexes(server: Running, settings: Settings) -> None:
    fill(server)
    (described,) = server.client.get("/v1/retrieval").json()["indexes"]
    assert len(described.pop("sha256")) == 64
    assert described == {
        "index": "things",
        "items": 6,
        "deleted_rows": 0,
        "mode": "exact",
        "recall": None,
        "recall_of": None,
        "rebuild": None,
        "dimension": 3,
        "model": "colours",
        "version": "1",
        "adapter": "multiway",
    }
    assert server.client.delete("/v1/retrieval/things").json() == {"index": "things", "deleted": True}
    assert problem(server.client.delete("/v1/retrieval/things")) == (404, None)
    assert list(settings.indexes.iterdir()) == []
    assert put(server, "again", text="red").status_code == 200
    assert ids(server.post(SEARCH, json={"text": "red"})) == ["again"]


def test_second_server_on_one_folder(server: Running, settings: Settings) -> None:
    """It does not touch what the first has open."""
    fill(server)
    found = server.post(SEARCH, json={"text": "green"}).json()["hits"]
    with running(settings) as second:
        (described,) = second.client.get("/v1/retrieval").json()["indexes"]
        assert described["error"]["status"] == 500
        assert problem(second.post(SEARCH, json={"text": "green"})) == (500, None)
    assert server.post(SEARCH, json={"text": "green"}).json()["hits"] == found


def test_server_that_may_hold_none(settings: Settings) -> None:
    """Another one has the folder, or none can know who has it."""
    with running(settings, create_app(settings, indexes=False)) as server:
        for method, path in [
            ("GET", "/v1/retrieval"),
            ("PUT", ITEMS),
            ("POST", SEARCH),
            ("DELETE", "/v1/retrieval/things"),
        ]:
            answer = server.client.request(method, path, json={"text": "red"})
            assert (answer.status_code, answer.json()["type"]) == (403, "urn:wander:error:Forbidden")
        assert server.client.get("/readyz").status_code == 200
        assert "/v1/retrieval" in server.client.get("/openapi.json").json()["paths"]
    assert not settings.indexes.exists()


def test_restart(settings: Settings) -> None:
    with running(settings) as server:
        put(server, "a", text="red")
    with running(settings) as server:
        assert ids(server.post(SEARCH, json={"text": "red"})) == ["a"]


def test_model_of_another_kind_is_refused(settings: Settings, tmp_path: Path) -> None:
    """The same graphs under a new version are the same model; other graphs are not."""
    models = tmp_path / "models"
    publish(models / "colours")
    settings = settings.model_copy(update={"models": models})
    with running(settings) as server:
        put(server, "a", text="red")
    publish(models / "colours")
    with running(settings) as server:
        assert put(server, "b", text="green").json()["version"] == "2"
        assert ids(server.post(SEARCH, json={"text": "red"})) == ["a", "b"]
    publish(models / "colours", gain=2)
    with running(settings) as server:
        for answer in (
            put(server, "c", text="red"),
            put_lines(server, {"id": "c", "text": "red"}),
            server.post(SEARCH, json={"text": "red"}),
            server.post(SEARCH, json={"id": "a", "model": "colours"}),
        ):
            assert problem(answer) == (422, "model")
            assert "holds vectors of model 'colours' version 1" in answer.json()["detail"]
        assert ids(server.post(SEARCH, json={"id": "a"})) == ["b"]
        assert len(server.client.get(ITEMS).json()["items"]) == 2
        other = server.client.put("/v1/retrieval/other/items/a", json={"text": "red"})
        assert other.json()["version"] == "3"
    publish(models / "more")
    with running(settings) as server:
        assert ids(server.post(SEARCH, json={"text": "red", "model": "more"})) == ["a", "b"]
        new = server.client.put("/v1/retrieval/new/items/a", json={"text": "red"})
        assert problem(new) == (404, None)
        assert "colours, more" in new.json()["detail"]
        named = server.client.put("/v1/retrieval/new/items/a", json={"text": "red", "model": "more"})
        assert named.json()["model"] == "more"
        assert server.client.put("/v1/retrieval/new/items/b", json={"text": "red"}).json()["model"] == "more"


def test_server_without_such_a_model(settings: Settings, tmp_path: Path) -> None:
    publish_sentiment(tmp_path / "models" / "mosi", Linear("sentiment"))
    with running(settings.model_copy(update={"models": tmp_path / "models"})) as server:
        answer = put(server, "a", text="red")
        assert problem(answer) == (404, None)
        assert "no model here that makes vectors" in answer.json()["detail"]


# Errors


def test_names_of_indexes(server: Running, settings: Settings) -> None:
    for name in ("Things", ".things", "a.b", "-a", "a" * 65, "%2e%2e", "a%00"):
        base = f"/v1/retrieval/{name}"
        for method, path in (("GET", "/items"), ("GET", "/items/a"), ("DELETE", "/items/a"), ("DELETE", "")):
            assert problem(server.client.request(method, base + path)) == (422, "index")
        assert problem(server.client.put(f"{base}/items/a", json={"text": "red"})) == (422, "index")
        assert problem(put_lines(server, {"id": "a", "text": "red"}, path=f"{base}/items")) == (422, "index")
        assert problem(server.post(f"{base}/search", json={"text": "red"})) == (422, "index")
    for path in ("..%2f..%2fetc", "a/b", "things/items/..%2f..%2fx"):
        assert server.client.get(f"/v1/retrieval/{path}").status_code == 404
    assert not settings.indexes.exists()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/items", None),
        ("GET", "/items/a", None),
        ("DELETE", "/items/a", None),
        ("DELETE", "", None),
        ("POST", "/search", {"text": "red"}),
        ("POST", "/search", {"id": "red"}),
    ],
)
def test_unknown_index(filled: Running, method: str, path: str, body: Any) -> None:
    answer = filled.client.request(method, f"/v1/retrieval/nothing{path}", json=body)
    assert problem(answer) == (404, None)
    assert "no index 'nothing'" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 422, "image"),
        ({"text": "red", "image": b64(RED)}, 422, "image"),
        ({"text": 3}, 422, "text"),
        ({"image": "***"}, 422, "image"),
        ({"image": b64(b"no image")}, 422, "image"),
        ({"text": "red", "smell": 1}, 422, "smell"),
        ({"text": "red", "top_k": 0}, 422, "top_k"),
        ({"text": "red", "top_k": 1001}, 422, "top_k"),
        ({"text": "red", "top_k": True}, 422, "top_k"),
        ({"text": "red", "top_k": 1.0}, 422, "top_k"),
        ({"text": "red", "top_k": "1"}, 422, "top_k"),
        ({"text": "red", "filter": []}, 422, "filter"),
        ({"text": "red", "filter": {"kind": {}}}, 422, "filter.kind"),
        ({"text": "red", "filter": {"kind": ["a"]}}, 422, "filter.kind"),
        ({"text": "red", "modality": 3}, 422, "modality"),
        ({"id": 3}, 422, "id"),
        ({"id": "red", "text": "red"}, 422, "text"),
        ({"id": "nobody"}, 404, None),
        ({"items": [{"text": "red"}]}, 422, "items"),
        ({"text": "red", "model": "nobody"}, 404, None),
        ({"text": "red", "model": "mosi"}, 404, None),
        ({"id": "red", "model": "mosi"}, 404, None),
        ({"text": "red", "model": "colours", "version": "9"}, 404, None),
        ({"text": "red", "adapter": "other"}, 404, None),
        ({"text": "red", "version": "1"}, 422, "model"),
        ({"text": "red", "model": 3}, 422, "model"),
    ],
    ids=str,
)
def test_bad_searches(filled: Running, body: Any, status: int, field: str | None) -> None:
    assert problem(filled.post(SEARCH, json=body)) == (status, field)


DEEP: dict[str, Any] = {"a": 1}
for _ in range(252):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    ("item", "status", "field"),
    [
        ({}, 422, "image"),
        ({"text": "red", "metadata": []}, 422, "metadata"),
        ({"text": "red", "metadata": "{}"}, 422, "metadata"),
        ({"text": "red", "metadata": {"a": "x" * 65_536}}, 413, "metadata"),
        ({"text": "red", "metadata": DEEP}, 422, "metadata"),
        ({"text": "red", "id": "a"}, 422, "id"),
        ({"items": [{"text": "red"}]}, 422, "items"),
        ({"text": "red", "model": "mosi"}, 404, None),
        ({"text": "x" * MAX_BODY}, 413, None),
    ],
    ids=lambda value: str(value)[:60],
)
def test_bad_items(filled: Running, item: Any, status: int, field: str | None) -> None:
    assert problem(filled.client.put(f"{ITEMS}/new", json=item)) == (status, field)
    assert problem(filled.client.get(f"{ITEMS}/new")) == (404, None)


@pytest.mark.parametrize("id", ["", "a%00", "a%1fb", "x" * 257])
def test_ids_that_are_none(filled: Running, id: str) -> None:
    assert problem(put(filled, id, text="red")) == (422, "id")


@pytest.mark.parametrize("field", ["metadata", "filter", "top_k"])
def test_form_fields_that_are_not_json(filled: Running, field: str) -> None:
    request = {"data": {field: "{"}, "files": {"image": ("x.png", RED)}}
    answer = filled.post(SEARCH, **request) if field != "metadata" else filled.client.put(f"{ITEMS}/a", **request)
    assert problem(answer) == (422, field)


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "x", "", "1.5", "٣", "9" * 5000])
def test_bad_pages(filled: Running, limit: str) -> None:
    assert problem(filled.client.get(ITEMS, params={"limit": limit})) == (422, "limit")


def test_bad_bulks(filled: Running) -> None:
    line = {"id": "a", "text": "red"}
    answer = put_lines(filled, *[line] * (MAX_ITEMS + 1))
    assert problem(answer) == (413, "items")
    assert problem(put_lines(filled, b"\n\n")) == (400, None)
    assert problem(put_lines(filled, line, params={"model": "nobody"})) == (404, None)
    assert problem(put_lines(filled, line, params={"version": "1"})) == (422, "model")
    assert problem(put_lines(filled, {"id": "a", "text": "x" * MAX_BODY})) == (413, None)
    for media in ("application/json", "text/plain", ""):
        answer = filled.client.put(ITEMS, content=json.dumps(line), headers={"content-type": media})
        assert problem(answer) == (415, None)
    assert len(filled.client.get(ITEMS).json()["items"]) == 6


@pytest.mark.parametrize("media", ["text/plain", "application/x-ndjson"])
def test_media_types_that_are_not_read(filled: Running, media: str) -> None:
    for answer in (
        filled.post(SEARCH, content=b"{}", headers={"content-type": media}),
        filled.client.put(f"{ITEMS}/a", content=b"{}", headers={"content-type": media}),
    ):
        assert problem(answer) == (415, None)


def test_deadline(filled: Running) -> None:
    headers = {"x-request-timeout-ms": "0.0001"}
    assert problem(filled.post(SEARCH, json={"text": "red"}, headers=headers)) == (504, None)
    assert problem(filled.client.put(f"{ITEMS}/new", json={"text": "red"}, headers=headers)) == (504, None)
    assert problem(filled.post(SEARCH, json={"id": "red"}, headers={"x-request-timeout-ms": "x"}))[0] == 422


def test_damaged_index(settings: Settings) -> None:
    with running(settings) as server:
        put(server, "a", text="red")
    (settings.indexes / "things" / "items.sqlite").write_bytes(b"garbage" * 1000)
    with running(settings) as server:
        (described,) = server.client.get("/v1/retrieval").json()["indexes"]
        assert (described["index"], described["error"]["status"]) == ("things", 500)
        assert problem(server.post(SEARCH, json={"text": "red"})) == (500, None)
        assert server.client.delete("/v1/retrieval/things").status_code == 200
        assert put(server, "a", text="red").status_code == 200


# All together


def test_many_clients_at_once(server: Running) -> None:
    def work(number: int) -> None:
        assert put(server, f"{number}", text="red", metadata={"n": number}).status_code == 200
        assert f"{number}" in ids(server.post(SEARCH, json={"text": "red", "filter": {"n": number}}))
        if number % 2:
            assert server.client.delete(f"{ITEMS}/{number}").json()["deleted"]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    kept = [item["id"] for item in server.client.get(ITEMS).json()["items"]]
    assert kept == sorted(str(number) for number in range(0, 40, 2))


def test_metrics(server: Running) -> None:
    fill(server)
    server.post(SEARCH, json={"text": "red"})
    server.post(SEARCH, json={"id": "red"})

    def samples() -> dict[str, float]:
        families = text_string_to_metric_families(server.client.get("/metrics").text)
        return {s.name: s.value for f in families for s in f.samples if s.labels.get("index") == "things"}

    assert samples()["wander_index_items"] == 6
    assert samples()["wander_index_search_seconds_count"] == 2
    server.client.delete("/v1/retrieval/things")
    assert samples() == {}


def test_document(filled: Running) -> None:
    paths = filled.client.get("/openapi.json").json()["paths"]
    methods = {path: set(operations) for path, operations in paths.items() if path.startswith("/v1/retrieval")}
    assert methods == {
        "/v1/retrieval": {"get"},
        "/v1/retrieval/{index}": {"get", "delete"},
        "/v1/retrieval/{index}/rebuild": {"post"},
        "/v1/retrieval/{index}/items": {"get", "put"},
        "/v1/retrieval/{index}/items/{id}": {"get", "put", "delete"},
        "/v1/retrieval/{index}/search": {"post"},
    }


# Arrays, and rebuilds


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **{name: np.asarray(array) for name, array in arrays.items()})
    return file.getvalue()


@pytest.mark.parametrize("form", [True, False])
def test_items_as_arrays(server: Running, form: bool) -> None:
    """Twice, which changes nothing; one that is wrong does not harm the others."""
    texts, metadata = ["red", "green", "", "blue"], ['{"kind": "word"}', "", "{}", "[]"]
    body = npz(id=["a", "b", "c", "d"], text=texts, metadata=metadata)
    for _ in range(2):
        if form:
            answer = server.client.put(ITEMS, files={"file": ("items.npz", body)})
        else:
            answer = server.client.put(ITEMS, content=body, headers={"content-type": "application/x-npz"})
        results = answer.json()["results"]
        assert [one.get("id") for one in results] == ["a", "b", None, None]
        assert [one["error"]["field"] for one in results[2:]] == ["items[2].image", "items[3].metadata"]
        assert len(server.client.get(ITEMS).json()["items"]) == 2
    assert ids(server.post(SEARCH, json={"text": "red", "filter": {"kind": "word"}})) == ["a"]
    pictures = npz(id=["e"], image=[b64(RED)])
    assert server.client.put(ITEMS, files={"file": ("items.npz", pictures)}).json()["results"][0]["modality"] == "image"


def test_arrays_that_are_refused(server: Running) -> None:
    many = npz(id=[str(n) for n in range(MAX_ITEMS + 1)], text=["red"] * (MAX_ITEMS + 1))
    for body, refusal in (
        (many, (413, "id")),
        (b"PK", (400, None)),
        (npz(id=["a"], text=np.array([{}])), (400, "text")),
        (npz(text=["a"]), (422, "id")),
    ):
        assert problem(server.client.put(ITEMS, files={"file": ("items.npz", body)})) == refusal
    file = {"file": ("items.npz", npz(id=["a"], text=["red"]))}
    assert problem(server.client.put(ITEMS, data={"more": "1"}, files=file)) == (422, "more")
    two = [("file", ("a.npz", b"PK")), ("file", ("b.npz", b"PK"))]
    assert problem(server.client.put(ITEMS, files=two)) == (400, None)
    assert server.client.get("/v1/retrieval").json() == {"indexes": []}


def test_rebuild(server: Running) -> None:
    fill(server)
    server.client.delete(f"{ITEMS}/red")
    assert server.client.get("/v1/retrieval/things").json()["deleted_rows"] == 1
    answer = server.post("/v1/retrieval/things/rebuild")
    assert answer.status_code == 202
    while (described := server.client.get("/v1/retrieval/things").json())["rebuild"]["stage"] not in ("done", "failed"):
        assert answer.json()["index"] == "things"
    assert described["rebuild"] == {"stage": "done", "share": 1.0, "error": None}
    assert (described["items"], described["deleted_rows"]) == (5, 0)
    assert problem(server.post("/v1/retrieval/nothing/rebuild")) == (404, None)
    assert problem(server.client.get("/v1/retrieval/nothing")) == (404, None)


def test_approximate_search_says_so(settings: Settings) -> None:
    pytest.importorskip("faiss")
    random = np.random.default_rng(0)
    colours = random.uniform(0, 1, (3000, 3)).astype(np.float32)
    with running(settings) as server:
        put(server, "a", text="red")
    indexes = Indexes(settings.indexes)
    indexes.get("things").put([Item(f"{n}", "image", v / np.linalg.norm(v)) for n, v in enumerate(colours)])
    indexes.close()
    with running(settings.model_copy(update={"index_exact_mb": 0.001})) as server:
        while (described := server.client.get("/v1/retrieval/things").json())["mode"] == "exact":
            assert described["rebuild"]["stage"] != "failed"
        assert described["recall"] >= 0.95
        body = server.post(SEARCH, json={"text": "green"}).json()
        assert (body["mode"], body["recall"], body["recall_of"]) == ("approximate", described["recall"], "items")
        assert len(body["hits"]) == 10
        assert server.post(SEARCH, json={"text": "green", "top_k": 1000}).json()["mode"] == "exact"
        text = server.client.get("/metrics").text
        assert f'wander_index_recall{{index="things"}} {described["recall"]}' in text
        assert 'wander_index_approximate{index="things"} 1.0' in text
        assert 'wander_index_search_seconds_count{index="things",mode="approximate"} 1.0' in text
        assert 'wander_index_search_seconds_count{index="things",mode="exact"} 1.0' in text
