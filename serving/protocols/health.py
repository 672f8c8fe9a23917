"""Liveness, readiness and metrics, at the root."""

from __future__ import annotations

from typing import ClassVar

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from serving.metrics import ReadyCollector
from serving.protocols.base import Protocol, json_response
from serving.service import Service
from wander.errors import NotReady


class Health(Protocol):
    """`/livez`: the process answers. `/readyz`: every model is loaded, and the server is not draining."""

    prefix: ClassVar[str] = "/"

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        service.metrics.registry.register(ReadyCollector(lambda: service.repository.ready))

    def router(self) -> APIRouter:
        router = APIRouter(tags=["operations"])

        @router.get("/livez", summary="The process answers")
        async def livez() -> Response:
            return json_response({"status": "live"})

        @router.get("/readyz", summary="Every model is loaded")
        async def readyz() -> Response:
            if not self.service.repository.ready:
                raise NotReady("the models are being loaded, or the server is draining")
            return json_response({"status": "ready", "models": [m.name for m in self.service.repository.defaults]})

        @router.get("/metrics", summary="Metrics for Prometheus")
        async def metrics() -> Response:
            return Response(generate_latest(self.service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

        return router


plugin = Health
