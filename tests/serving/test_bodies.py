"""Items with files, for which no model is needed: a route that only says what it has read."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.testclient import TestClient

from serving.protocols._bodies import read_body
from serving.protocols.base import json_response, problem
from serving.settings import Settings
from wander.errors import InputError

PICTURE = bytes(range(256))
ENCODED = base64.b64encode(PICTURE).decode()


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    app = FastAPI()

    @app.post("/")
    async def read(request: Request) -> Any:
        try:
            body = await read_body(request, ("image", "mask"), Settings())
        except InputError as error:
            said = problem(error)
            return json_response(said, said["status"])
        items = body.content if isinstance(body.content, list) else [body.content]
        whole = [item.get("image") == PICTURE for item in items]
        texts = [{name: value for name, value in item.items() if isinstance(value, str)} for item in items]
        return json_response({"whole": whole, "texts": texts, "address": body.address})

    with TestClient(app) as started:
        yield started  # type: ignore[misc]


def test_files_in_json_are_base64(client: httpx.Client) -> None:
    single = client.post("/", json={"image": ENCODED, "text": "a pie", "model": "food"}).json()
    assert single == {"whole": [True], "texts": [{"text": "a pie"}], "address": {"model": "food"}}
    many = client.post("/", json={"items": [{"image": ENCODED}, {"text": "none"}]}).json()
    assert many["whole"] == [True, False]


@pytest.mark.parametrize("value", ["not base64!", "YQ", "ü", 5, True, [ENCODED]])
def test_what_is_no_base64_is_named(client: httpx.Client, value: object) -> None:
    for body, field in (
        ({"image": value}, "image"),
        ({"items": [{"image": ENCODED}, {"image": value}]}, "items[1].image"),
    ):
        answer = client.post("/", json=body)
        assert (answer.status_code, answer.json()["field"]) == (422, field)


def test_form_with_files_and_texts(client: httpx.Client) -> None:
    answer = client.post("/", files={"image": PICTURE, "mask": b"m"}, data={"text": "a pie", "model": "food"})
    assert answer.json() == {"whole": [True], "texts": [{"text": "a pie"}], "address": {"model": "food"}}


def test_form_without_files(client: httpx.Client) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    body = b'--x\r\nContent-Disposition: form-data; name="text"\r\n\r\na pie\r\n--x--\r\n'
    assert client.post("/", content=body, headers=headers).json()["texts"] == [{"text": "a pie"}]


def test_unknown_file(client: httpx.Client) -> None:
    answer = client.post("/", files={"smell": b"s"})
    assert (answer.status_code, answer.json()["field"]) == (422, "smell")
    assert "image, mask" in answer.json()["detail"]


def test_too_many_files_and_fields(client: httpx.Client) -> None:
    files = [("image", PICTURE)] * 3
    assert client.post("/", files=files).status_code == 400
    assert client.post("/", files={"image": PICTURE}, data={f"f{n}": "x" for n in range(40)}).status_code == 400
