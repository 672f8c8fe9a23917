"""The two clients. All they know is how to send and how to wait; what can be asked is in one table."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine
from functools import partial, wraps
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

import httpx

from serving.client import _routes as routes
from serving.client._tries import Call, Outcome, Policy, Tries
from wander import __version__
from wander.errors import ConfigError

P = ParamSpec("P")
T = TypeVar("T")

TIMEOUT_MS = 60_000.0
TRIES = 3
LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20)
"""Of connections; those of httpx itself."""


class Route(Generic[P, T]):
    """A method of both clients: it takes what the route's function takes, and gives what its call decodes to."""

    def __init__(self, build: Callable[P, Call[T]]) -> None:
        self.build = build

    @overload
    def __get__(self, client: None, owner: type) -> Callable[P, Call[T]]: ...
    @overload
    def __get__(self, client: Client, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: AsyncClient, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, client: Client | AsyncClient | None, owner: type) -> Callable[P, Any]:
        if client is None:
            return self.build

        @wraps(self.build)
        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return client._send(partial(self.build, *args, **kwargs))

        return method


class Routes:
    """Everything that can be asked; `serving.client._routes` says what each takes, gives and raises."""

    predict = Route(routes.predict)
    predict_many = Route(routes.predict_many)
    models = Route(routes.models)
    model = Route(routes.model)
    document = Route(routes.document)

    live = Route(routes.live)
    ready = Route(routes.ready)
    metrics = Route(routes.metrics)

    indexes = Route(routes.indexes)
    get_index = Route(routes.get_index)
    rebuild_index = Route(routes.rebuild_index)
    delete_index = Route(routes.delete_index)
    items = Route(routes.items)
    get_item = Route(routes.get_item)
    put_item = Route(routes.put_item)
    put_items = Route(routes.put_items)
    put_arrays = Route(routes.put_arrays)
    delete_item = Route(routes.delete_item)
    search = Route(routes.search)

    infer = Route(routes.infer)
    server_metadata = Route(routes.server_metadata)
    model_metadata = Route(routes.model_metadata)
    model_ready = Route(routes.model_ready)
    repository = Route(routes.repository)
    load = Route(routes.load)
    unload = Route(routes.unload)
    statistics = Route(routes.statistics)


class Client(Routes):
    """A blocking client with a pool of connections; several threads may use it. Close it, or use it in a `with`.

    A request that is refused for now (429, 503) is tried again after what `Retry-After` says; so is one whose
    connection cannot be made, and one whose connection breaks, unless doing it twice would matter.

    Args:
        url: of the server; a path in it stands before every route.
        api_key: sent as `Authorization: Bearer`.
        timeout_ms: of a request that names none, all its tries together. The server is told.
        tries: the most for one request.
        options: of `httpx.Client`, such as `verify`, `proxy`, `limits` and `trust_env`.

    Raises ConfigError for arguments that cannot be.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_ms: float = TIMEOUT_MS,
        tries: int = TRIES,
        **options: Any,
    ) -> None:
        self._policy = Policy(url, timeout_ms, tries)
        self._http = httpx.Client(**_connection(url, api_key), **options)

    def _send(self, build: Callable[[], Call[T]]) -> T:
        tries = Tries(build(), self._policy)
        while True:
            try:
                outcome: Outcome = self._http.request(**tries.request())
            except httpx.HTTPError as error:
                outcome = error
            if (pause := tries.pause(outcome)) is None:
                return tries.result(outcome)
            time.sleep(pause)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(Routes):
    """The same for asyncio: every method is awaited. Close it with `aclose`, or use it in an `async with`.

    Arguments are those of `Client`. A file that is named by a Path is read in the event loop.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_ms: float = TIMEOUT_MS,
        tries: int = TRIES,
        **options: Any,
    ) -> None:
        self._policy = Policy(url, timeout_ms, tries)
        # The pool of httpx loses a connection now and then when a request is cancelled (httpcore 1.0.9), and once it
        # has lost all that it may have, every request waits in vain. So it may have any number, and we count.
        limits: httpx.Limits = options.pop("limits", LIMITS)
        self._places = asyncio.Semaphore(limits.max_connections or sys.maxsize)
        uncounted = httpx.Limits(
            max_keepalive_connections=limits.max_keepalive_connections, keepalive_expiry=limits.keepalive_expiry
        )
        self._http = httpx.AsyncClient(**_connection(url, api_key), limits=uncounted, **options)

    async def _send(self, build: Callable[[], Call[T]]) -> T:
        tries = Tries(build(), self._policy)
        while True:
            try:
                outcome: Outcome = await self._try(tries)
            except httpx.HTTPError as error:
                outcome = error
            if (pause := tries.pause(outcome)) is None:
                return tries.result(outcome)
            await asyncio.sleep(pause)

    async def _try(self, tries: Tries[Any]) -> httpx.Response:
        try:
            async with asyncio.timeout(tries.left):
                await self._places.acquire()
        except TimeoutError:
            raise httpx.PoolTimeout("every connection is in use") from None
        try:
            return await self._http.request(**tries.request())
        finally:
            self._places.release()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _connection(url: str, api_key: str | None) -> dict[str, Any]:
    """Arguments that both of httpx's clients take."""
    headers = {"user-agent": f"wander/{__version__}"}
    if api_key is not None:
        if not (api_key.isascii() and api_key.isprintable()):
            raise ConfigError("an API key is printable ASCII")
        headers["authorization"] = f"Bearer {api_key}"
    try:
        return {"base_url": httpx.URL(url), "headers": headers}
    except httpx.InvalidURL as error:
        raise ConfigError(f"{url!r} is no address of a server: {error}") from error
