"""The Open Inference Protocol (KServe v2) over HTTP: `/v2`. Inference goes ahead of the router, as one ASGI call."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.parsing import parse_json
from serving.protocols import _kserve
from serving.protocols._kserve_openapi import BODY, INFER, RESPONSES, infer_operation
from serving.protocols._tensors import decode, encode
from serving.protocols.base import (
    Protocol,
    deadline_of,
    json_response,
    retry_headers,
    server_timing,
    status_of,
    text_of,
)
from serving.repository import Repository
from serving.wire import JSON_LENGTH_HEADER, TIMEOUT_HEADER
from wander.errors import InputError, MalformedBody, NotReady, ServiceError, TooLarge, UnsupportedMedia

MODEL = "/v2/models/{name}"
VERSION = "/v2/models/{name}/versions/{version}"
JSON_LENGTH = JSON_LENGTH_HEADER.encode()
TIMEOUT = TIMEOUT_HEADER.encode()
WINDOW = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""How zlib names the encodings that bodies may have."""

_BEFORE, _AFTER = "/v2/models/", "/infer"
_ROUTE = {False: SimpleNamespace(path=MODEL + _AFTER), True: SimpleNamespace(path=VERSION + _AFTER)}


class KServeHttp(Protocol):
    """Errors are `{"error": "field: what is wrong"}`."""

    prefix: ClassVar[str] = "/v2"

    def direct(self, scope: Scope) -> ASGIApp | None:
        path: str = scope["path"]
        if not (path.startswith(_BEFORE) and path.endswith(_AFTER)):
            return None
        name, *rest = path[len(_BEFORE) : -len(_AFTER)].split("/")
        if rest and (len(rest) != 2 or rest[0] != "versions"):
            return None
        scope["route"] = _ROUTE[bool(rest)]
        if scope["method"] != "POST":
            response = self.error(InputError("inference is asked for with POST"), 405)
            response.headers["allow"] = "POST"
            return response
        return partial(self._infer, name, rest[1] if rest else None)

    async def _infer(self, name: str, version: str | None, scope: Scope, receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        self.service.admit(name, version)
        body = await _read(receive)
        if (encoding := headers.get(b"content-encoding")) is not None:
            body = await asyncio.to_thread(inflated, body, encoding, self.service.settings.max_body_bytes)
        begun = time.monotonic()
        length, timeout = headers.get(JSON_LENGTH), headers.get(TIMEOUT)
        request = decode(body, None if length is None else _length(length))
        asked = _kserve.options_of(
            request.parameters, None if timeout is None else deadline_of(timeout.decode("latin-1"))
        )
        decoded = time.monotonic()
        result = await self.service.infer(
            name,
            request.inputs,
            version=version,
            adapter=asked.adapter,
            deadline=asked.deadline,
            bulk=asked.bulk,
            outputs=request.outputs,
        )
        inferred, model, timing = time.monotonic(), result.model, result.timing
        head: dict[str, Any] = {"model_name": name, "model_version": model.version}
        if request.id is not None:
            head["id"] = request.id
        head["parameters"] = {**request.parameters, "adapter": model.adapter}
        body, length_of_json = encode(result.outputs, head, request)
        timing.preprocess, timing.postprocess = decoded - begun, time.monotonic() - inferred
        answer = [(b"content-length", b"%d" % len(body)), (b"server-timing", server_timing(timing).encode())]
        if length_of_json is None:
            answer.append((b"content-type", b"application/json"))
        else:
            answer.append((b"content-type", b"application/octet-stream"))
            answer.append((JSON_LENGTH, b"%d" % length_of_json))
        await send({"type": "http.response.start", "status": 200, "headers": answer})
        await send({"type": "http.response.body", "body": body})

    def router(self) -> APIRouter:
        router = APIRouter(tags=["Open Inference Protocol"], responses=RESPONSES)
        repository = self.service.repository

        @router.get("/v2", summary="The server, and which extensions of the protocol it has")
        async def server_metadata() -> Response:
            return json_response(_kserve.SERVER)

        @router.get("/v2/health/live", summary="The process answers")
        async def server_live() -> Response:
            return json_response({"live": True})

        @router.get("/v2/health/ready", summary="Every model is loaded")
        async def server_ready() -> Response:
            if not repository.ready:
                raise NotReady("the models are being loaded, or the server is draining")
            return json_response({"ready": True})

        @router.get("/v2/models/stats", summary="What every graph has done since it was loaded")
        async def server_statistics() -> Response:
            return json_response(_kserve.statistics(repository))

        def get(path: str, answer: Callable[[Repository, str, str | None], Any], operation: str, summary: str) -> None:
            """The route of a model, and that of one of its versions."""

            async def default(name: str) -> Response:
                return json_response(answer(repository, name, None))

            async def of_version(name: str, version: str) -> Response:
                return json_response(answer(repository, name, version))

            for prefix, endpoint, which in ((MODEL, default, ""), (VERSION, of_version, "_version")):
                router.add_api_route(
                    prefix + path, endpoint, methods=["GET"], summary=summary, operation_id=f"v2_{operation}{which}"
                )

        get("", _kserve.metadata, "metadata", "The inputs and outputs of a model")
        get("/ready", _kserve.ready, "ready", "A model can be asked")
        get("/config", _kserve.config, "config", "The configuration of a model, in short")
        get("/stats", _kserve.statistics, "statistics", "What a model has done since it was loaded")

        @router.post("/v2/repository/index", summary="Every bundle, its versions and their states", openapi_extra=BODY)
        async def repository_index(request: Request) -> Response:
            ready = (await _json(request)).get("ready", False)
            if type(ready) is not bool:
                raise InputError("ready must be true or false", "ready")
            return json_response(await asyncio.to_thread(_kserve.index, repository, ready))

        @router.post("/v2/repository/models/{name}/load", summary="Serve a bundle", openapi_extra=BODY)
        async def repository_load(name: str, request: Request) -> Response:
            await _kserve.load(repository, name, await _parameters(request))
            return json_response({})

        @router.post("/v2/repository/models/{name}/unload", summary="Serve a bundle no more", openapi_extra=BODY)
        async def repository_unload(name: str, request: Request) -> Response:
            await _parameters(request)
            await _kserve.unload(repository, name)
            return json_response({})

        return router

    def document(self, openapi: dict[str, Any]) -> None:
        for prefix, version in ((MODEL, False), (VERSION, True)):
            openapi["paths"][prefix + INFER] = {"post": infer_operation(version)}

    def error(self, error: ServiceError, status: int | None = None) -> Response:
        return json_response({"error": text_of(error)}, status or status_of(error), retry_headers(error))


def inflated(body: bytes, encoding: bytes, limit: int) -> bytes:
    """A body that came compressed.

    Raises UnsupportedMedia, MalformedBody, and TooLarge as soon as more than `limit` bytes come out.
    """
    name = encoding.decode("latin-1").strip().lower()
    if name == "identity":
        return body
    if name not in WINDOW:
        raise UnsupportedMedia(f"the content-encoding {name!r} is not read here; there are: {', '.join(WINDOW)}")
    stream = zlib.decompressobj(WINDOW[name])
    try:
        whole = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise MalformedBody(f"the body is not {name}: {error}") from error
    if len(whole) > limit:
        raise TooLarge(f"the body unpacks to more than the {limit} bytes that are read")
    if not stream.eof or stream.unused_data:
        raise MalformedBody(f"the {name} of the body ends too early, or something follows it")
    return whole


async def _read(receive: Receive) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body"):
        return body
    parts = [body]
    while message.get("more_body"):
        message = await receive()
        parts.append(message.get("body", b""))
    if message["type"] != "http.request":
        raise ClientDisconnect
    return b"".join(parts)


def _length(text: bytes) -> int:
    if not text.isdigit() or len(text) > 18:
        raise MalformedBody(f"{JSON_LENGTH.decode()} must be a number of bytes, not {text.decode('latin-1')!r}")
    return int(text)


async def _json(request: Request) -> dict[str, Any]:
    """The body of a request that may go without one."""
    value = parse_json(await request.body() or b"{}", "the body")
    if not isinstance(value, dict):
        raise InputError("the body must be a JSON object")
    return value


async def _parameters(request: Request) -> dict[str, Any]:
    if (parameters := (await _json(request)).get("parameters")) is None:
        return {}
    if not isinstance(parameters, dict):
        raise InputError("parameters must be a JSON object", "parameters")
    return parameters


plugin = KServeHttp
