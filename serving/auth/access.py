"""What every route needs, over HTTP and over gRPC, and the middleware that asks for it.

A route that is not in the table needs the role admin; for everyone else it is as if it did not exist.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.auth.keys import ANONYMOUS, Access, Keys, Role, admit
from serving.metrics import Metrics
from wander.errors import Forbidden, NotFound, RateLimited, Unauthorized
from wander.tasks import tasks

INFER, INDEX_WRITE, ADMIN = Role.INFER, Role.INDEX_WRITE, Role.ADMIN


def _of_tasks() -> Iterator[str]:
    """The routes of our own protocol that answer for a task."""
    for name, task in tasks:
        for operation in task.operations:
            yield "/".join(filter(None, ("/v1", name.replace("_", "-"), operation)))


HTTP: dict[tuple[str, str], Access] = {
    ("GET", "/livez"): "open",
    ("GET", "/readyz"): "open",
    ("GET", "/metrics"): "key",
    ("GET", "/docs"): "key",
    ("GET", "/docs/{file}"): "key",
    ("GET", "/openapi.json"): "key",
    ("GET", "/demo"): "open",  # its pages ask as any client does, and show nothing without a key that lets them
    ("GET", "/demo/{path:path}"): "open",
    ("POST", "/demo/{path:path}"): "open",
    ("GET", "/v1/models"): INFER,
    ("GET", "/v1/models/{name}"): INFER,
    ("GET", "/v1/retrieval"): INFER,
    ("DELETE", "/v1/retrieval/{index}"): INDEX_WRITE,
    ("POST", "/v1/retrieval/{index}/search"): INFER,
    ("POST", "/v1/retrieval/{index}/rebuild"): INDEX_WRITE,
    ("GET", "/v1/retrieval/{index}"): INFER,
    ("GET", "/v1/retrieval/{index}/items"): INFER,
    ("PUT", "/v1/retrieval/{index}/items"): INDEX_WRITE,
    ("GET", "/v1/retrieval/{index}/items/{id:path}"): INFER,
    ("PUT", "/v1/retrieval/{index}/items/{id:path}"): INDEX_WRITE,
    ("DELETE", "/v1/retrieval/{index}/items/{id:path}"): INDEX_WRITE,
    ("GET", "/v2"): INFER,
    ("GET", "/v2/health/live"): "open",
    ("GET", "/v2/health/ready"): "open",
    ("GET", "/v2/models/stats"): INFER,
    **{
        (method, f"/v2/models/{{name}}{version}{what}"): INFER
        for version in ("", "/versions/{version}")
        for method, what in (("GET", ""), ("GET", "/ready"), ("GET", "/config"), ("GET", "/stats"), ("POST", "/infer"))
    },
    ("POST", "/v2/repository/index"): INFER,
    ("POST", "/v2/repository/models/{name}/load"): ADMIN,
    ("POST", "/v2/repository/models/{name}/unload"): ADMIN,
}
"""(method, template of the path) -> what it needs; the routes of tasks come to these."""

GRPC: dict[str, Access] = {
    "ServerLive": "open",
    "ServerReady": "open",
    "ServerMetadata": INFER,
    "ModelReady": INFER,
    "ModelMetadata": INFER,
    "ModelConfig": INFER,
    "ModelStatistics": INFER,
    "ModelInfer": INFER,
    "ModelStreamInfer": INFER,
    "RepositoryIndex": INFER,
    "RepositoryModelLoad": ADMIN,
    "RepositoryModelUnload": ADMIN,
}
"""Name of a method of the Open Inference Protocol's service -> what it needs."""


def access_of_rpc(method: str) -> Access:
    """What a method of gRPC needs, by its name or its full path (`/inference.GRPCInferenceService/ModelInfer`)."""
    return GRPC.get(method.rpartition("/")[2], ADMIN)


class Table:
    """What every route needs, as far as tasks are known when it is made.

    Attributes:
        entries: (method, template of the path) -> what it needs.
    """

    def __init__(self) -> None:
        self.entries = {**HTTP, **{("POST", path): INFER for path in _of_tasks()}}
        self._needs: dict[str, Access] = {}
        parts: dict[str, list[str]] = {}
        for number, ((method, template), access) in enumerate(self.entries.items()):
            pieces = re.split(r"(\{\w+(?::path)?\})", template)
            path = "".join(
                re.escape(piece) if not piece.startswith("{") else (".*" if piece.endswith(":path}") else "[^/]+")
                for piece in pieces
            )
            parts.setdefault(method, []).append(f"(?P<r{number}>{path})")
            self._needs[f"r{number}"] = access
        # For every method one pattern, whose group that matched says what is needed.
        self._patterns = {method: re.compile("|".join(some), re.DOTALL) for method, some in parts.items()}

    def listed(self, method: str, path: str) -> Access | None:
        """What the table says of a request, if it says anything."""
        pattern = self._patterns.get("GET" if method == "HEAD" else method)
        match = pattern.fullmatch(path) if pattern else None
        return self._needs[match.lastgroup or ""] if match else None

    def methods(self, path: str) -> list[str]:
        """Those that the table has for a path, sorted."""
        return sorted(method for method in self._patterns if self.listed(method, path))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """Lets a request through if its key has what the table says. Reads nothing of a body.

    Sets `scope["caller"]` to the name of the key.

    Args:
        trusted: whether another process of this server has let a request in and counted it.
    """

    def __init__(self, app: ASGIApp, keys: Keys, metrics: Metrics, trusted: Callable[[Scope], bool]) -> None:
        self.app = app
        self.table = Table()
        self.keys = keys
        self.metrics = metrics
        self.trusted = trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._check(scope)
            except (Unauthorized, Forbidden, RateLimited) as error:
                self.metrics.rejections.labels("none", type(error).__name__).inc()
                raise
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        await self.app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        method, path = scope["method"], scope["path"]
        access = self.table.listed(method, path)
        principal = ANONYMOUS if access == "open" else self.keys.identify(_authorization(scope))
        if access is None and ADMIN not in principal.roles:
            if methods := self.table.methods(path):
                raise HTTPException(405, headers={"Allow": ", ".join(methods)})
            raise NotFound(f"there is no route {path}")
        principal.require(access or ADMIN)
        admit(principal, paid=self.trusted(scope))
        scope["caller"] = principal.name


def _authorization(scope: Scope) -> str | None:
    """The header's value; of several, none is to be trusted."""
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(values) > 1:
        raise Unauthorized("there is more than one header Authorization; send one")
    return values[0].decode("latin-1") if values else None
