"""`POST /predictions/{model}`: one item in, the bare answer out, as TorchServe's clients ask. A worked example."""

from __future__ import annotations

from typing import ClassVar

import orjson
from fastapi import APIRouter, Request, Response

from serving.protocols.base import Protocol, deadline, json_response, retry_headers, status_of, text_of
from serving.service import Target
from wander.errors import MalformedBody, ServiceError


class Predictions(Protocol):
    """Only translates: names, limits, queues and answers are the service's."""

    prefix: ClassVar[str] = "/predictions"

    def router(self) -> APIRouter:
        router = APIRouter(tags=["inference"])

        @router.post("/predictions/{model}", summary="One item, by the name of a model")
        async def predict(model: str, request: Request) -> Response:
            try:
                item = orjson.loads(await request.body())
            except orjson.JSONDecodeError as error:
                raise MalformedBody(f"the body is no JSON: {error}") from error
            if not isinstance(item, dict):
                raise MalformedBody("the body must be one JSON object")
            task = self.service.repository.get(model).bundle.manifest.task
            answer = await self.service.predict(Target(task, model=model), item, deadline(request))
            return json_response(answer.content)

        return router

    def error(self, error: ServiceError, status: int | None = None) -> Response:
        """TorchServe's form of an error."""
        code = status or status_of(error)
        content = {"code": code, "type": type(error).__name__, "message": text_of(error)}
        return json_response(content, code, retry_headers(error))


plugin = Predictions
