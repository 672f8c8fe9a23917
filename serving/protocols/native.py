"""Our own protocol: `POST /v1/<task>` for every task, `/v1/<task>/<operation>`, and `GET /v1/models`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from fastapi import APIRouter, Request, Response

from serving.answers import Answer
from serving.model import Model, weights_bytes
from serving.protocols._bodies import read_body
from serving.protocols._openapi import PROBLEMS, RESPONSES, answer_content, parameters, request_body
from serving.protocols.base import Protocol, deadline, json_response, problem, server_timing
from serving.service import Target
from wander.errors import ServiceError
from wander.tasks import Task, tasks


class Native(Protocol):
    """An item is a JSON object, several are `{"items": [..]}`; forms carry files."""

    prefix: ClassVar[str] = "/v1"

    def router(self) -> APIRouter:
        router = APIRouter()
        for path, name, operation, task in _routes():
            router.add_api_route(
                self.prefix + path,
                self._endpoint(name, operation, task),
                methods=["POST"],
                tags=["inference"],
                summary=task.operations[operation],
                operation_id="_".join(filter(None, (name, operation.replace("-", "_")))),
                openapi_extra={"requestBody": request_body(task.uploads, operation, []), **parameters(task.options)},
                responses=RESPONSES,
            )

        @router.get("/v1/models", tags=["models"], summary="Every model that can be asked, and how it was verified")
        async def models() -> Response:
            repository = self.service.repository
            return json_response({"models": [describe(model) | self._known_as(model) for model in repository.models]})

        @router.get("/v1/models/{name}", tags=["models"], summary="One model", responses={404: PROBLEMS[404]})
        async def model(name: str, version: str | None = None) -> Response:
            model = self.service.repository.get(name, version)
            return json_response(describe(model) | self._known_as(model))

        return router

    def _endpoint(self, name: str, operation: str, task: type[Task]) -> Any:
        def files(address: dict[str, str]) -> tuple[str, ...]:
            repository = self.service.repository
            if task.uploads:
                return ()
            if (model := address.get("model")) is not None:
                return repository.get(model, address.get("version")).task.files()
            meant = [model.task for model in repository.defaults if model.bundle.manifest.task == name]
            return tuple(sorted({field for one in meant for field in one.files()}))

        async def endpoint(request: Request) -> Response:
            until = deadline(request)
            body = await read_body(request, task.uploads, self.service.settings, task.options, files)
            target = Target(name, operation, **body.address)
            if isinstance(body.content, list):
                return _bulk(await self.service.predict_many(target, body.content, until))
            return _single(await self.service.predict(target, body.content, until))

        return endpoint

    def _known_as(self, model: Model) -> dict[str, Any]:
        """Whether a version is the default of its name, and its aliases."""
        served = self.service.repository.served(model.name)
        aliases = [alias for alias, version in served.aliases.items() if version == model.version] if served else []
        return {"default": served is not None and served.default == model.version, "aliases": aliases}

    def document(self, openapi: dict[str, Any]) -> None:
        """Puts the schema and a real example of the loaded models into the request bodies."""
        for path, name, operation, task in _routes():
            models = [m for m in self.service.repository.defaults if m.bundle.manifest.task == name]
            if models:
                route = openapi["paths"][self.prefix + path]["post"]
                route["requestBody"] = request_body(task.uploads, operation, models)
                route["responses"]["200"]["content"] = answer_content(operation, models)


def _routes() -> Iterator[tuple[str, str, str, type[Task]]]:
    """(path, task, operation, plug-in) of everything that can be asked."""
    for name, task in tasks:
        for operation in task.operations:
            path = "/" + name.replace("_", "-")
            yield f"{path}/{operation}" if operation else path, name, operation, task


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
        "raw": list(model.task.raw()),
        "files": list(model.task.files()),
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
        "weights_bytes": weights_bytes(model.bundle),
        "items": {operation: model.task.operation(operation).schema() for operation in model.task.operations},
    }


def _single(answer: Answer) -> Response:
    return json_response(answer.to_json(), headers={"Server-Timing": server_timing(answer.timing)})


def _bulk(answers: list[Answer | ServiceError]) -> Response:
    """200 with a result or an error for every item, in order."""
    return json_response(
        {"results": [a.to_json() if isinstance(a, Answer) else {"error": problem(a)} for a in answers]}
    )


plugin = Native
