"""`/v1/retrieval`: items are put into an index by what a model makes of them, and found by image, text or item.

An index is made by the first item that is put into it, and holds vectors of one model. `operations` of a task that
makes vectors has `embed`, which answers `embedding` (numbers) and `modality`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import numpy as np
from fastapi import APIRouter, Depends, Request, Response

from serving.answers import Answer, Timing
from serving.auth import charge
from serving.index import Found, Index, Indexes, IndexOptions, Item, Origin, Query
from serving.index.base import Vector
from serving.metrics import IndexCollector
from serving.protocols._bodies import ADDRESS
from serving.protocols._openapi import RESPONSES
from serving.protocols._retrieval import (
    Record,
    Search,
    described,
    many_body,
    mode_of,
    one_body,
    origin_of,
    page_of,
    read_many,
    read_one,
)
from serving.protocols.base import Protocol, deadline, json_response, problem
from serving.service import Service, Target
from wander.errors import Forbidden, InputError, NotFound, NotReady, ServiceError
from wander.tasks import tasks

EMBED = "embed"


class Retrieval(Protocol):
    """Files are read and written in threads, so that no request waits for the disk of another."""

    prefix: ClassVar[str] = "/v1/retrieval"

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        settings = service.settings
        options = IndexOptions(settings.index_exact_mb, settings.index_recall, settings.index_server)
        self.indexes = Indexes(settings.indexes, "embedded" if options.server is None else "chroma", options)
        self.uploads = tuple(sorted({name for _, t in tasks if EMBED in t.operations for name in t.uploads}))
        service.metrics.registry.register(IndexCollector(self._measures))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        if not self.service.first:
            yield
            return
        opening = asyncio.create_task(asyncio.to_thread(self.indexes.open_all))
        yield
        await opening
        await asyncio.to_thread(self.indexes.close)

    def router(self) -> APIRouter:
        router = APIRouter(prefix=self.prefix, tags=["retrieval"], dependencies=[Depends(self._held)])
        items = "/{index}/items"
        one = items + "/{id:path}"
        for method, path, endpoint, summary, body in (
            ("GET", "", self._indexes, "Every index", {}),
            ("GET", "/{index}", self._show, "An index: its size, its model, how it is searched", {}),
            ("POST", "/{index}/rebuild", self._rebuild, "Start to make search fast and files small anew", {}),
            ("DELETE", "/{index}", self._remove, "Remove an index with all its items", {}),
            ("GET", items, self._list, "Items of an index, by id: `limit` of them, `after` an id", {}),
            ("PUT", items, self._put_many, "Add or replace many items: NDJSON, or an .npz", many_body()),
            ("GET", one, self._get, "One item", {}),
            ("PUT", one, self._put, "Add or replace an item", one_body(search=False)),
            ("DELETE", one, self._delete, "Remove an item, if it is there", {}),
            ("POST", "/{index}/search", self._search, "Find items by image, text or item", one_body(search=True)),
        ):
            router.add_api_route(
                path, endpoint, methods=[method], summary=summary, openapi_extra=body or None, responses=RESPONSES
            )
        return router

    async def _held(self) -> None:
        """Raises Forbidden where an index would be a second one over the same folder."""
        if not self.service.first:
            raise Forbidden("this server holds no indexes; ask one that does: wander serve MODELS --indexes FOLDER")

    # Indexes

    async def _indexes(self) -> Response:
        names = await asyncio.to_thread(self.indexes.names)
        return json_response({"indexes": [await asyncio.to_thread(self._describe, name) for name in names]})

    def _describe(self, name: str) -> dict[str, Any]:
        try:
            return described(name, self.indexes.get(name))
        except ServiceError as error:
            return {"index": name, "error": problem(error)}

    async def _show(self, index: str) -> Response:
        return json_response(await asyncio.to_thread(lambda: described(index, self.indexes.get(index))))

    async def _rebuild(self, index: str) -> Response:
        """Answers at once; `rebuild` in what describes the index tells how far it is."""

        def start() -> dict[str, Any]:
            opened = self.indexes.get(index)
            opened.rebuild()
            return described(index, opened)

        return json_response(await asyncio.to_thread(start), 202)

    def _measures(self) -> list[tuple[str, int, int, bool, float | None]]:
        return [
            (name, s.items, s.deleted, s.mode == "approximate", s.recall.value if s.recall else None)
            for name, s in self.indexes.last_stats()
        ]

    async def _remove(self, index: str) -> Response:
        await asyncio.to_thread(self.indexes.remove, index)
        self.service.metrics.searches.remove_by_labels({"index": index})
        return json_response({"index": index, "deleted": True})

    # Items

    async def _list(self, request: Request, index: str) -> Response:
        limit, after = page_of(request)

        def read() -> list[Item]:
            return self.indexes.get(index).page(limit + 1, after)

        found = await asyncio.to_thread(read)
        following = found[limit - 1].id if len(found) > limit else None
        return json_response({"index": index, "items": [_public(item) for item in found[:limit]], "next": following})

    async def _get(self, index: str, id: str) -> Response:
        item = await asyncio.to_thread(lambda: _existing(self.indexes.get(index), id))
        return json_response({"index": index, **_public(item)})

    async def _delete(self, index: str, id: str) -> Response:
        deleted = await asyncio.to_thread(lambda: self.indexes.get(index).delete(id))
        return json_response({"index": index, "id": id, "deleted": deleted})

    async def _put(self, request: Request, index: str, id: str) -> Response:
        until = deadline(request)
        content, body = await read_one(request, self.uploads, self.service.settings)
        record = Record.of(id, content)
        target = self._target(await asyncio.to_thread(self.indexes.find, index), body.address)
        answer = await self.service.predict(target, record.content, until)
        (item,) = await asyncio.to_thread(self._store, index, [(record, answer)])
        return json_response({"index": index, **_public(item), **_made_by(answer)})

    async def _put_many(self, request: Request, index: str) -> Response:
        until = deadline(request)
        records = await read_many(request, self.uploads, self.service.settings)
        charge(len(records))
        address = {name: request.query_params[name] for name in ADDRESS if name in request.query_params}
        target = self._target(await asyncio.to_thread(self.indexes.find, index), address)

        async def attempt(record: Record | InputError) -> tuple[Record, Answer] | ServiceError:
            if isinstance(record, InputError):
                return record
            try:
                return record, await self.service.predict(target, record.content, until)
            except ServiceError as error:
                return error

        tried = await asyncio.gather(*map(attempt, records))
        made = [one for one in tried if not isinstance(one, ServiceError)]
        stored = iter(await asyncio.to_thread(self._store, index, made)) if made else iter(())
        results: list[dict[str, Any]] = []
        for number, one in enumerate(tried):
            if isinstance(one, ServiceError):
                error = one.within(f"items[{number}]") if isinstance(one, InputError) else one
                results.append({"error": problem(error)})
            else:
                item = next(stored)
                results.append({"id": item.id, "modality": item.modality, **_made_by(one[1])})
        return json_response({"results": results, "index": index})

    def _store(self, index: str, made: Sequence[tuple[Record, Answer]]) -> list[Item]:
        """Puts all items, or none."""
        items = [Item(r.id, a.content["modality"], _vector(a), r.metadata) for r, a in made]
        models = {id(answer.model): answer.model for _, answer in made}.values()
        origins = [origin_of(model) for model in models]
        task = made[0][1].model.task
        weights = len(task.divisor(made[0][1].content))
        opened = self.indexes.ensure(index, origins[0], items[0].vector.size, weights)
        for origin in origins:
            opened.origin.check(origin)
        opened.put(items)
        return items

    # Search

    async def _search(self, request: Request, index: str) -> Response:
        until = deadline(request)
        content, body = await read_one(request, self.uploads, self.service.settings)
        search = Search.of(content)
        opened = await asyncio.to_thread(self.indexes.get, index)
        answer: Answer | None = None
        if search.id is None:
            answer = await self.service.predict(self._target(opened, body.address), search.content, until)
        elif body.address:
            self._target(opened, body.address)

        def look() -> tuple[Found, float]:
            if answer is not None:
                opened.origin.check(origin_of(answer.model))
            vector = _existing(opened, search.id or "").vector if answer is None else _vector(answer)
            query = Query(vector, search.top_k, search.filter, search.modality, (search.id,) if search.id else ())
            started = time.monotonic()
            return opened.search(query), time.monotonic() - started

        found, seconds = await asyncio.to_thread(look)
        self.service.metrics.searches.labels(index, found.mode).observe(seconds)
        content = {"hits": [vars(hit) for hit in found.hits], "index": index, **mode_of(found)}
        made_by = _made_by(answer or opened.origin)
        made_by["timing"]["search"] = round(seconds * 1000, 3)
        return json_response({**content, **made_by})

    # Models

    def _target(self, index: Index | None, address: dict[str, str]) -> Target:
        """What embeds: the model that is named, else that of the index, else the only one that can.

        Raises NotReady, NotFound, and InputError for a model that makes other vectors than those of the index.
        """
        name = address.get("model")
        if name is None:
            if "version" in address:
                raise InputError("a version needs the name of its model", "model")
            name = self._only() if index is None else index.origin.model
        task = self.service.repository.get(name).task
        if EMBED not in task.operations:
            raise NotFound(f"model {name!r} does the task {task.manifest.task!r}, which makes no vectors")
        target = Target(task.manifest.task, EMBED, **{**address, "model": name})
        model = self.service.resolve(target)
        if index is not None:
            index.origin.check(origin_of(model))
        return target

    def _only(self) -> str:
        """Name of the only model that makes vectors."""
        if not self.service.repository.ready:
            raise NotReady("the models are being loaded")
        models = self.service.repository.defaults
        found = [m.name for m in models if EMBED in m.task.operations]
        if not found:
            raise NotFound("there is no model here that makes vectors for an index")
        if len(found) > 1:
            raise NotFound(f"several models make vectors; name one of them as model: {', '.join(found)}")
        return found[0]


def _existing(index: Index, id: str) -> Item:
    """Raises NotFound."""
    if (item := index.get(id)) is None:
        raise NotFound(f"there is no item {id!r} in the index")
    return item


def _vector(answer: Answer) -> Vector:
    """What is stored and looked for: the vector, and what divides its scores."""
    weights = answer.model.task.divisor(answer.content)
    return np.asarray([*answer.content["embedding"], *weights], np.float32)


def _public(item: Item) -> dict[str, Any]:
    return {"id": item.id, "modality": item.modality, "metadata": item.metadata}


def _made_by(source: Answer | Origin) -> dict[str, Any]:
    """Which model made a vector, and how long it took: no time, if the vector was there already."""
    if isinstance(source, Answer):
        origin, timing = origin_of(source.model), source.timing
    else:
        origin, timing = source, Timing()
    names = {"model": origin.model, "version": origin.version, "adapter": origin.adapter}
    return {**names, "timing": timing.milliseconds()}


plugin = Retrieval
