"""What the OpenAPI document says of the routes of our own protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from serving.model import Model
from serving.protocols._bodies import ADDRESS
from wander.bundle import EXAMPLE
from wander.tasks.base import Item

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/problem+json": {"schema": {"type": "object"}}}}
    for status, text in {
        400: "the body cannot be parsed",
        404: "no such model, version or adapter",
        413: "too large",
        415: "media type not supported",
        422: "the input is not valid; names the field",
        429: "the queue is full; see Retry-After",
        500: "the engine failed on this item",
        503: "loading or draining; see Retry-After",
        504: "the deadline passed",
    }.items()
}
BINARY = {"type": "string", "format": "binary"}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "the answer", "content": {"application/json": {"schema": {"type": "object"}}}},
    **PROBLEMS,
}


def example(model: Model) -> Item:
    """The item that came with the bundle, for the first operation of its task."""
    item: dict[str, Any] = orjson.loads((model.bundle.path / EXAMPLE).read_bytes())
    return item


def request_body(uploads: tuple[str, ...], operation: str, models: list[Model]) -> dict[str, Any]:
    """The request body of one route, as the loaded models have it."""
    schemas = [_items(model.task.operation(operation).schema()) for model in models] or [{"type": "object"}]
    examples = {
        model.name: {"summary": f"an input for {model.name}", "value": example(model)}
        for model in models
        if operation == next(iter(model.task.operations))
    }
    json = {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}
    return {
        "required": True,
        "content": {
            "application/json": {**json, **({"examples": examples} if examples else {})},
            "multipart/form-data": {"schema": _form(uploads, operation, models)},
        },
    }


def answer_content(operation: str, models: list[Model]) -> dict[str, Any]:
    """The answer of one route, as the loaded models give it."""
    schemas = [_answers(model.task.operation(operation).answer_schema()) for model in models]
    return {"application/json": {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}}


def parameters(options: tuple[str, ...]) -> dict[str, Any]:
    """Those of the query of a route whose items have options, for `openapi_extra`; empty if they have none."""
    about = "for all items that do not say it themselves"
    found = [{"name": name, "in": "query", "schema": {"type": "string"}, "description": about} for name in options]
    return {"parameters": found} if found else {}


def _answers(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a task says of one item, and how it came about; or that of a list of items."""
    told = {name: {"type": "string"} for name in ADDRESS}
    timing = {"type": "object", "description": "milliseconds: queue, preprocess, inference, postprocess"}
    properties = {**content.get("properties", {}), **told, "timing": timing}
    single = {**content, "properties": properties, "required": [*content.get("required", ()), *told, "timing"]}
    error = {"type": "object", "properties": {"error": {"type": "object"}}, "required": ["error"]}
    bulk = {
        "type": "object",
        "properties": {"results": {"type": "array", "items": {"anyOf": [single, error]}}},
        "required": ["results"],
    }
    return {"anyOf": [single, bulk]}


def _items(item: Mapping[str, Any]) -> dict[str, Any]:
    """One item, or a list of them, and the model that they are meant for."""
    names = {name: {"type": "string"} for name in ADDRESS}
    single = {**item, "properties": {**item["properties"], **names}}
    bulk = {
        "type": "object",
        "properties": {"items": {"type": "array", "items": item, "minItems": 1}, **names},
        "required": ["items"],
        "additionalProperties": False,
    }
    return {"anyOf": [single, bulk]}


def _form(uploads: tuple[str, ...], operation: str, models: list[Model]) -> dict[str, Any]:
    """The fields of a form: those of an item with its files, or one .npz; or either, by the model that is meant."""
    if uploads:
        return _fields(uploads, models[0].task.operation(operation).schema() if models else None)
    arrays = {"type": "object", "properties": {"file": BINARY}, "required": ["file"]}
    with_files = [model.task for model in models if model.task.files()]
    fields = [_fields(task.files(), task.operation(operation).schema()) for task in with_files]
    return {"anyOf": [arrays, *fields]} if fields else arrays


def _fields(files: tuple[str, ...], item: Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields of an item, of which some are files; of one that is not known, these alone."""
    item = item or {"properties": {}}
    binary = {name: BINARY for name in files if name in item["properties"] or not item["properties"]}
    return {"type": "object", **item, "properties": {**item["properties"], **binary}}
