"""The calls of the Open Inference Protocol's service, and the server that answers them. Loads gRPC."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from serving.auth import Principal, authorise
from serving.auth.access import access_of_rpc
from serving.auth.keys import admit
from serving.logs import REQUEST_ID, request_id
from serving.protocols import _kserve
from serving.protocols import _kserve_pb2 as pb
from serving.protocols._kserve_messages import decode, encode, values_of
from serving.protocols.base import retry_headers, text_of
from serving.service import Service
from serving.wire import UNFORESEEN
from wander.errors import (
    DeadlineExceeded,
    EngineError,
    Forbidden,
    InputError,
    NotFound,
    NotReady,
    Overloaded,
    RateLimited,
    ServiceError,
    Unauthorized,
    Unreachable,
    UsageError,
)

log = logging.getLogger(__name__)

SERVICE = "inference.GRPCInferenceService"
"""Its name on the wire."""

CODES: dict[type[ServiceError], grpc.StatusCode] = {
    InputError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    Unauthorized: grpc.StatusCode.UNAUTHENTICATED,
    Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    NotReady: grpc.StatusCode.UNAVAILABLE,
    Unreachable: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    EngineError: grpc.StatusCode.INTERNAL,
}

Context = Any  # grpc.aio.ServicerContext; gRPC has no types


def code_of(error: ServiceError) -> grpc.StatusCode:
    """The code of an error's class, or of the nearest class above it."""
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)


@asynccontextmanager
async def serve(service: Service) -> AsyncIterator[int]:
    """Serves while it is open; gives the port. Raises UsageError if the address is taken."""
    settings = service.settings
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", settings.max_body_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", int(settings.workers > 1)),
        ]
    )
    server.add_generic_rpc_handlers((Calls(service).handler(),))
    address = f"{settings.host}:{settings.grpc_port}"
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise UsageError(
            f"could not listen on {address} for gRPC; is another server there? --grpc-port 0 takes a free port"
        ) from error
    await server.start()
    try:
        yield port
    finally:
        await server.stop(settings.drain_s)


class Calls:
    """One method a call. What the protocol knows of and is not here, such as shared memory, is UNIMPLEMENTED."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.repository = service.repository

    def handler(self) -> grpc.GenericRpcHandler:
        calls: dict[str, tuple[Callable[[Any, Context], Awaitable[Message]], type[Any]]] = {
            "ServerLive": (self.server_live, pb.ServerLiveRequest),
            "ServerReady": (self.server_ready, pb.ServerReadyRequest),
            "ServerMetadata": (self.server_metadata, pb.ServerMetadataRequest),
            "ModelReady": (self.model_ready, pb.ModelReadyRequest),
            "ModelMetadata": (self.model_metadata, pb.ModelMetadataRequest),
            "ModelConfig": (self.model_config, pb.ModelConfigRequest),
            "ModelInfer": (self.model_infer, pb.ModelInferRequest),
            "ModelStatistics": (self.model_statistics, pb.ModelStatisticsRequest),
            "RepositoryIndex": (self.repository_index, pb.RepositoryIndexRequest),
            "RepositoryModelLoad": (self.repository_load, pb.RepositoryModelLoadRequest),
            "RepositoryModelUnload": (self.repository_unload, pb.RepositoryModelUnloadRequest),
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._watched(name, answer), request_deserializer=kind.FromString, response_serializer=_serialised
            )
            for name, (answer, kind) in calls.items()
        }
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self.model_stream_infer,
            request_deserializer=pb.ModelInferRequest.FromString,
            response_serializer=_serialised,
        )
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    async def server_live(self, request: pb.ServerLiveRequest, context: Context) -> Message:
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, request: pb.ServerReadyRequest, context: Context) -> Message:
        return pb.ServerReadyResponse(ready=self.repository.ready)

    async def server_metadata(self, request: pb.ServerMetadataRequest, context: Context) -> Message:
        return ParseDict(_kserve.SERVER, pb.ServerMetadataResponse())

    async def model_ready(self, request: pb.ModelReadyRequest, context: Context) -> Message:
        try:
            self.repository.graph(request.name, request.version or None)
        except (NotFound, NotReady):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def model_metadata(self, request: pb.ModelMetadataRequest, context: Context) -> Message:
        told = _kserve.metadata(self.repository, request.name, request.version or None)
        return ParseDict(told, pb.ModelMetadataResponse())

    async def model_config(self, request: pb.ModelConfigRequest, context: Context) -> Message:
        told = _kserve.config(self.repository, request.name, request.version or None)
        return ParseDict({"config": told}, pb.ModelConfigResponse())

    async def model_statistics(self, request: pb.ModelStatisticsRequest, context: Context) -> Message:
        told = _kserve.statistics(self.repository, request.name or None, request.version or None)
        return ParseDict(told, pb.ModelStatisticsResponse())

    async def model_infer(self, request: pb.ModelInferRequest, context: Context) -> Message:
        return await self._infer(request, context.time_remaining())

    async def _infer(self, request: pb.ModelInferRequest, seconds: float | None) -> pb.ModelInferResponse:
        """The answer to a request whose client waits for so long."""
        asked = decode(request)
        options = _kserve.options_of(asked.parameters, None if seconds is None else time.monotonic() + seconds)
        result = await self.service.infer(
            request.model_name,
            asked.inputs,
            version=request.model_version or None,
            adapter=options.adapter,
            deadline=options.deadline,
            bulk=options.bulk,
            outputs=asked.outputs,
        )
        return encode(result, request, raw=asked.raw)

    async def model_stream_infer(
        self, requests: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> AsyncIterator[Message]:
        """One answer, or error, after the other; each is asked when the one before it was answered."""
        name, paid = "ModelStreamInfer", True
        try:
            principal = self._let_in(name, context)
        except ServiceError as error:
            self._observe(name, code_of(error), time.monotonic())
            await _abort(context, error)
        async for request in requests:
            started, code = time.monotonic(), grpc.StatusCode.OK
            try:
                admit(principal, paid)
                paid = False  # the first request comes with the call
                answer = pb.ModelStreamInferResponse(infer_response=await self._infer(request, None))
            except ServiceError as error:
                code = code_of(error)
                answer = pb.ModelStreamInferResponse(error_message=text_of(error))
                answer.infer_response.id = request.id
            except Exception:
                code = grpc.StatusCode.INTERNAL
                log.exception("unforeseen error in %s", name)
                answer = pb.ModelStreamInferResponse(error_message=UNFORESEEN)
                answer.infer_response.id = request.id
            self._observe(name, code, started)
            yield answer

    async def repository_index(self, request: pb.RepositoryIndexRequest, context: Context) -> Message:
        told = await asyncio.to_thread(_kserve.index, self.repository, request.ready)
        return ParseDict({"models": told}, pb.RepositoryIndexResponse())

    async def repository_load(self, request: pb.RepositoryModelLoadRequest, context: Context) -> Message:
        self._alone()
        await _kserve.load(self.repository, request.model_name, values_of(request.parameters))
        return pb.RepositoryModelLoadResponse()

    async def repository_unload(self, request: pb.RepositoryModelUnloadRequest, context: Context) -> Message:
        self._alone()
        await _kserve.unload(self.repository, request.model_name)
        return pb.RepositoryModelUnloadResponse()

    def _alone(self) -> None:
        """A call reaches one worker, and models are those of all."""
        if self.service.settings.workers > 1:
            raise Forbidden("models of several workers are loaded and unloaded over HTTP: /v2/repository")

    def _watched(
        self, name: str, answer: Callable[[Any, Context], Awaitable[Message]]
    ) -> Callable[[Any, Context], Awaitable[Message]]:
        """The call if its key allows it, its errors as gRPC tells them, and its time in the metrics."""

        async def call(request: Any, context: Context) -> Message:
            started, code = time.monotonic(), grpc.StatusCode.CANCELLED
            try:
                self._let_in(name, context)
                with self._traced(name, context):
                    response = await answer(request, context)
                code = grpc.StatusCode.OK
                return response
            except ServiceError as error:
                code = code_of(error)
                await _abort(context, error)
            except Exception:
                code = grpc.StatusCode.INTERNAL
                log.exception("unforeseen error in %s", name)
                await context.abort(code, UNFORESEEN)
            finally:
                self._observe(name, code, started)

        return call

    def _let_in(self, name: str, context: Context) -> Principal:
        """Whose key came with a call; what is logged from here on has the id of the request.

        Raises Unauthorized, Forbidden and RateLimited.
        """
        REQUEST_ID.set(request_id(_metadata(context).get("x-request-id", "").encode()))
        values = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
        try:
            if len(values) > 1:
                raise Unauthorized("there is more than one authorization among the metadata; send one")
            return authorise(self.service.keys, values[0] if values else None, access_of_rpc(name))
        except (Unauthorized, Forbidden, RateLimited) as error:
            self.service.metrics.rejections.labels("none", type(error).__name__).inc()
            raise

    def _traced(self, name: str, context: Context) -> AbstractContextManager[Any]:
        tracing = self.service.tracing
        return nullcontext() if tracing is None else tracing.request(f"{SERVICE}/{name}", _metadata(context))

    def _observe(self, name: str, code: grpc.StatusCode, started: float) -> None:
        self.service.metrics.requests.labels(f"grpc/{name}", code.name).observe(time.monotonic() - started)


def _metadata(context: Context) -> dict[str, str]:
    """What a client sends beside its message, as far as it is text."""
    return {name: value for name, value in context.invocation_metadata() or () if isinstance(value, str)}


async def _abort(context: Context, error: ServiceError) -> None:
    metadata = tuple((key.lower(), value) for key, value in retry_headers(error).items())
    await context.abort(code_of(error), text_of(error), metadata)


def _serialised(message: Message) -> bytes:
    data: bytes = message.SerializeToString()
    return data
