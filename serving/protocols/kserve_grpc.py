"""The Open Inference Protocol (KServe v2) over gRPC, on a port of its own, in the event loop of the HTTP server.

gRPC is loaded only if there is a port for it: `serving.protocols._kserve_rpcs` is the rest.
"""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from serving.protocols.base import Protocol
from serving.service import Service
from wander.errors import MissingDependency, UsageError


class KServeGrpc(Protocol):
    """Has no routes. Raises, when it is made, MissingDependency without gRPC, UsageError for a port that cannot be."""

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        settings = service.settings
        if settings.grpc_port is None:
            return
        if any(importlib.util.find_spec(name) is None for name in ("grpc", "google.protobuf")):
            raise MissingDependency("gRPC is not installed; run: pip install 'wander[grpc]'")
        if settings.grpc_port == 0 and settings.workers > 1:
            raise UsageError("--grpc-port 0 takes a free port, and several workers must share one: name it")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        settings = self.service.settings
        if settings.grpc_port is None:
            yield
            return
        from serving.protocols._kserve_rpcs import serve

        async with serve(self.service) as port:
            self.listening = f"gRPC on {settings.host}:{port}"
            yield


plugin = KServeGrpc
