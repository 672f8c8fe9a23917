"""The document of the API: well-formed, of what is loaded, and with examples that work as they stand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.serving.building import Running, item
from tests.serving.schema import problems

METHODS = {"get", "put", "post", "delete", "patch", "head", "options"}


@pytest.fixture(scope="module")
def document(server: Running) -> Any:
    answer = server.client.get("/openapi.json")
    assert answer.status_code == 200
    return answer.json()


def operations(document: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert method in METHODS
            yield path, operation


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_well_formed(document: Any) -> None:
    assert re.fullmatch(r"3\.1\.\d+", document["openapi"])
    assert document["info"]["title"]
    assert document["info"]["version"]
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(set(names)) == len(names)
    for path, operation in operations(document):
        assert operation["responses"]
        assert all(response["description"] for response in operation["responses"].values())
        declared = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
        assert declared == set(re.findall(r"{(\w+)}", path))
    for reference in references(document):
        place = document
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]


@pytest.mark.parametrize(("task", "model"), [("sentiment", "mosi"), ("emotion", "iemocap")])
def test_example_can_be_sent_as_it_is(server: Running, document: Any, task: str, model: str) -> None:
    content = document["paths"][f"/v1/{task}"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    json = content["application/json"]
    assert list(json["examples"]) == [model]
    value = json["examples"][model]["value"]
    assert problems(json["schema"], value) == []
    answer = server.post(f"/v1/{task}", json=value)
    assert answer.status_code == 200
    assert answer.json()["model"] == model


@pytest.mark.parametrize(
    ("body", "fits"),
    [
        (item(), True),
        ({**item(), "model": "mosi", "version": "1"}, True),
        ({"items": [item(), item(1)], "adapter": "linear"}, True),
        ({**item(), "smell": []}, False),
        ({**item(), "model": 3}, False),
        ({**item(), "audio": []}, False),
        ({**item(), "audio": [[0.0] * 3] * 5}, False),
        ({**item(), "audio": [[0.0] * 4]}, False),
        ({**item(), "audio": [["loud"] * 3]}, False),
        ({"text": item()["text"]}, False),
        ({"items": []}, False),
        ({"items": [item()], "text": []}, False),
    ],
)
def test_schema_says_what_the_server_does(server: Running, document: Any, body: Any, fits: bool) -> None:
    schema = document["paths"]["/v1/sentiment"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert (problems(schema, body) == []) == fits
    assert (server.post("/v1/sentiment", json=body).status_code == 200) == fits


def test_task_without_a_model_has_no_example(document: Any) -> None:
    content = document["paths"]["/v1/tensors"]["post"]["requestBody"]["content"]
    assert "examples" not in content["application/json"]


def test_documentation_page(server: Running) -> None:
    answer = server.client.get("/docs")
    assert answer.status_code == 200
    assert "docs/start.js" in answer.text
    assert "openapi.json" in server.client.get("/docs/start.js").text
