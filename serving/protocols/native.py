"""Our own protocol: `POST /v1/<task>` for every task that answers items, and `GET /v1/models`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import orjson
from fastapi import APIRouter, Request, Response
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from serving.protocols._npz import read_npz
from serving.protocols.base import Protocol, deadline, json_response, problem
from serving.repository import Model
from serving.service import Answer, Target
from serving.settings import Settings
from wander.bundle import EXAMPLE
from wander.errors import InputError, MalformedBody, ServiceError, TooLarge, UnsupportedMedia
from wander.tasks import tasks
from wander.tasks.base import Item

ADDRESS = ("model", "version", "adapter")
"""Fields of a request that say which model is meant; in the body, or in the query."""


class Native(Protocol):
    """An item is a JSON object, several are `{"items": [..]}`; or an .npz file with one item, or with a row an item."""

    prefix: ClassVar[str] = "/v1"

    def router(self) -> APIRouter:
        router = APIRouter(prefix=self.prefix)
        for name, task in tasks:
            router.add_api_route(
                f"/{name.replace('_', '-')}",
                self._endpoint(name),
                methods=["POST"],
                tags=["inference"],
                summary=task.summary,
                operation_id=name,
                openapi_extra={"requestBody": {"required": True, "content": _media({"type": "object"})}},
                responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}, **PROBLEMS},
            )

        @router.get("/models", tags=["models"], summary="Every model that can be asked, and how it was verified")
        async def models() -> Response:
            repository = self.service.repository
            return json_response({"models": [describe(model) for model in repository.models]})

        @router.get("/models/{name}", tags=["models"], summary="One model", responses={404: PROBLEMS[404]})
        async def model(name: str) -> Response:
            return json_response(describe(self.service.repository.get(name)))

        return router

    def _endpoint(self, task: str) -> Any:
        async def endpoint(request: Request) -> Response:
            until = deadline(request)
            body, address = await _read(request, self.service.settings)
            target = Target(task, **address)
            if isinstance(body, list):
                return _bulk(await self.service.predict_many(target, body, until))
            return _single(await self.service.predict(target, body, until))

        endpoint.__name__ = task
        return endpoint

    def document(self, openapi: dict[str, Any]) -> None:
        """Puts the schema and a real example of the loaded models into the request bodies."""
        for name in tasks.names():
            operation = openapi["paths"].get(f"{self.prefix}/{name.replace('_', '-')}", {}).get("post")
            models = [m for m in self.service.repository.models if m.bundle.manifest.task == name]
            if operation is None or not models:
                continue
            schemas = [_request_schema(model) for model in models]
            schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
            examples = {m.name: {"summary": f"random input for {m.name}", "value": example(m)} for m in models}
            operation["requestBody"]["content"] = _media(schema, examples)


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


def describe(model: Model) -> dict[str, Any]:
    """What `GET /v1/models` says of a model."""
    manifest, checks = model.bundle.manifest, model.bundle.parity["checks"]
    return {
        "name": model.name,
        "version": model.version,
        "task": manifest.task,
        "adapter": model.adapter,
        "adapters": [model.adapter],
        "labels": list(manifest.labels),
        "precision": manifest.precision,
        "engine": model.engine,
        "folds": list(manifest.folds),
        "backbone": manifest.backbone.model_dump(),
        "graphs": {
            name: {"max_batch_size": graph.max_batch_size, **graph.signature.model_dump(mode="json")}
            for name, graph in manifest.graphs.items()
        },
        "parity": {
            "passed": all(check["passed"] for check in checks),
            "max_abs": max(check["max_abs"] for check in checks),
            "max_rel": max(check["max_rel"] for check in checks),
            "cosine": min(check["cosine"] for check in checks),
            "agreement": min(check["agreement"] for check in checks),
            "samples": model.bundle.parity["samples"],
            "reference": model.bundle.parity["reference"],
        },
        "provenance": manifest.provenance,
    }


def example(model: Model) -> Item:
    """The item that came with the bundle."""
    item: dict[str, Any] = orjson.loads((model.bundle.path / EXAMPLE).read_bytes())
    return item


async def _read(request: Request, settings: Settings) -> tuple[Item | list[Item], dict[str, str]]:
    """The item, or the list of items, of a body, and which model it is meant for."""
    address = {name: request.query_params[name] for name in ADDRESS if name in request.query_params}
    media = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media == "application/json":
        return _from_json(await request.body(), address)
    if media == "multipart/form-data":
        try:
            form = await request.form(max_files=1, max_fields=len(ADDRESS))
        except HTTPException as error:
            raise MalformedBody(f"the multipart body cannot be parsed: {error.detail}") from error
        try:
            return await _from_form(form, address, settings), address
        finally:
            await form.close()
    raise UnsupportedMedia(f"{media} is not read here; send application/json, or an .npz file as multipart/form-data")


async def _from_form(form: FormData, address: dict[str, str], settings: Settings) -> Item | list[Item]:
    files = [value for value in form.values() if isinstance(value, UploadFile)]
    if len(files) != 1:
        raise InputError("a multipart body needs one .npz file", "file")
    for name, value in form.items():
        if isinstance(value, str):
            if name not in ADDRESS:
                raise InputError(f"{name} is not a field of a multipart body", name)
            address[name] = value
    return _from_arrays(await files[0].read(), settings)


def _from_json(body: bytes, address: dict[str, str]) -> tuple[Item | list[Item], dict[str, str]]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedBody(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError("the body must be a JSON object")
    for name in ADDRESS:
        if (given := value.pop(name, None)) is not None:
            if not isinstance(given, str):
                raise InputError(f"{name} must be a string", name)
            address[name] = given
    if "items" not in value:
        return value, address
    items = value.pop("items")
    if value:
        raise InputError(f"{next(iter(value))} cannot stand beside items", next(iter(value)))
    if not isinstance(items, list) or not items:
        raise InputError("items must be a list with at least one item", "items")
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise InputError("an item must be a JSON object", f"items[{index}]")
    return items, address


def _from_arrays(body: bytes, settings: Settings) -> Item | list[Item]:
    """Arrays of three dimensions hold a row an item, arrays of two are one item."""
    arrays = read_npz(body, settings.max_body_bytes)
    if not arrays:
        raise InputError("the .npz holds no array", "file")
    if all(array.ndim == 2 for array in arrays.values()):
        return arrays
    rows = {len(array) if array.ndim == 3 else None for array in arrays.values()}
    if None in rows or len(rows) != 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise InputError(
            f"the arrays must all have two dimensions, or three with as many rows each, not: {shapes}", "file"
        )
    count = next(r for r in rows if r)
    if count > settings.max_items:
        raise TooLarge(f"{count} rows are more than the {settings.max_items} items of one request", "file")
    return [{name: array[i] for name, array in arrays.items()} for i in range(count)]


def _single(answer: Answer) -> Response:
    timing = answer.timing
    stages = {"pre": timing.preprocess, "queue": timing.queue, "infer": timing.inference, "post": timing.postprocess}
    header = ", ".join(f"{name};dur={seconds * 1000:.3f}" for name, seconds in stages.items())
    return json_response(answer.to_json(), headers={"Server-Timing": header})


def _bulk(answers: list[Answer | ServiceError]) -> Response:
    """200 with a result or an error for every item, in order."""
    return json_response(
        {"results": [a.to_json() if isinstance(a, Answer) else {"error": problem(a)} for a in answers]}
    )


def _request_schema(model: Model) -> dict[str, Any]:
    item = model.task.schema()
    names = {name: {"type": "string"} for name in ADDRESS}
    single = {**item, "properties": {**item["properties"], **names}}
    bulk = {
        "type": "object",
        "properties": {"items": {"type": "array", "items": item, "minItems": 1}, **names},
        "required": ["items"],
        "additionalProperties": False,
    }
    return {"anyOf": [single, bulk]}


def _media(schema: Mapping[str, Any], examples: Mapping[str, Any] | None = None) -> dict[str, Any]:
    file = {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}, "required": ["file"]}
    return {
        "application/json": {"schema": schema, **({"examples": examples} if examples else {})},
        "multipart/form-data": {"schema": file},
    }


plugin = Native
