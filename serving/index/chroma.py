"""An index on a Chroma server, for those who outgrow one machine: a collection there, and a note of it here.

Chroma is asked over its HTTP interface (version 2). It searches approximately, by HNSW over whole vectors, so that its
scores are exact; where it finds fewer items than there are, all that fit are compared here.

    chroma run --path FOLDER --port 8001        (pip install chromadb, in an environment of its own)
    wander serve MODELS --index-server http://127.0.0.1:8001
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np
import orjson

from serving.index._rows import scores
from serving.index._upkeep import Upkeep
from serving.index.base import Found, Hit, Index, IndexOptions, Item, Origin, Query, Recall, Report, Scalar, Stats
from wander.errors import EngineError, InputError, NotFound, NotReady

NOTE = "collection.json"
COLLECTIONS = "api/v2/tenants/default_tenant/databases/default_database/collections"
HNSW = {"space": "ip", "max_neighbors": 32, "ef_construction": 100, "ef_search": 200}
MODALITY, FIELD = "modality", "field."
"""Keys of Chroma's metadata: ours, and what a field of an item's metadata begins with."""
BATCH = 1000
TIMEOUT_S = 60.0
MEASURED = 50
TOP_K = 10


class Chroma(Index):
    """Writes take turns; a write of more than `BATCH` items is seen in as many parts."""

    weights = 0

    def __init__(self, folder: Path, options: IndexOptions) -> None:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        self.origin, self.dimension = Origin(**note["origin"]), int(note["dimension"])
        self._where = f"the index in {folder.name}"
        self._name = note["collection"]
        self._client = _client(options)
        self._writing = threading.Lock()
        self._closed = False
        self._recall: Recall | None = None
        self._count = 0
        self._upkeep = Upkeep(self._where)
        try:
            self._path = f"{COLLECTIONS}/{_asked(self._client, 'GET', f'{COLLECTIONS}/{self._name}')['id']}"
            self.stats()
        except BaseException:
            self._client.close()
            raise

    @classmethod
    def create(cls, folder: Path, origin: Origin, dimension: int, weights: int, options: IndexOptions) -> None:
        if weights:
            raise InputError(
                "an index on a server compares by one product; this model divides it. Index it without --index-server",
                "model",
            )
        name = f"wander-{secrets.token_hex(12)}"
        with _client(options) as client:
            _asked(client, "POST", COLLECTIONS, {"name": name, "configuration": {"hnsw": HNSW}})
        note = {"collection": name, "origin": asdict(origin), "dimension": dimension}
        (folder / NOTE).write_text(json.dumps(note), encoding="utf-8")

    @classmethod
    def open(cls, folder: Path, options: IndexOptions) -> Self:
        try:
            return cls(folder.resolve(), options)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EngineError(f"the index in {folder.name} is damaged: {error}") from error

    def put(self, items: Sequence[Item]) -> None:
        for item in items:
            self.check(item.vector)
        last = list({item.id: item for item in items}.values())
        with self._writing:
            for start in range(0, len(last), BATCH):
                self._put(last[start : start + BATCH])
            self.stats()

    def _put(self, items: list[Item]) -> None:
        """Chroma keeps what the old metadata has and the new has not, unless it is told that it is null."""
        before = self._ask("get", {"ids": [item.id for item in items], "include": ["metadatas"]})
        old = dict(zip(before["ids"], before["metadatas"], strict=True))
        self._ask(
            "upsert",
            {
                "ids": [item.id for item in items],
                "embeddings": [base64.b64encode(item.vector.astype("<f4").tobytes()).decode() for item in items],
                "documents": [orjson.dumps(item.metadata).decode() for item in items],
                "metadatas": [dict.fromkeys(old.get(item.id) or {}) | _fields(item) for item in items],
            },
        )

    def get(self, id: str) -> Item | None:
        return next(iter(self._items({"ids": [id]})), None)

    def delete(self, id: str) -> bool:
        with self._writing:
            there = bool(self._ask("get", {"ids": [id], "include": []})["ids"])
            if there:
                self._ask("delete", {"ids": [id]})
                self.stats()
            return there

    def page(self, limit: int, after: str = "") -> list[Item]:
        """Every page has the server tell all ids."""
        ids = sorted(id for id in self._ask("get", {"include": []})["ids"] if id > after)[:limit]
        return sorted(self._items({"ids": ids}), key=lambda item: item.id) if ids else []

    def search(self, query: Query) -> Found:
        self.check(query.vector)
        wanted = query.top_k + len(set(query.exclude))
        where = {"where": where} if (where := _where(query)) else {}
        found = self._ask(
            "query",
            {
                "query_embeddings": [query.vector.tolist()],
                "n_results": wanted,
                "include": ["distances", "documents", "metadatas"],
                **where,
            },
        )
        columns = (found[name][0] for name in ("ids", "distances", "metadatas", "documents"))
        hits = [
            Hit(id, 1 - distance, fields[MODALITY], orjson.loads(document))
            for id, distance, fields, document in zip(*columns, strict=True)
        ]
        if len(hits) < wanted and len(hits) < len(self._ask("get", {"include": [], **where})["ids"]):
            hits = [Hit(i.id, float(i.vector @ query.vector), i.modality, i.metadata) for i in self._items(where)]
        hits = [hit for hit in hits if hit.id not in query.exclude]
        return Found(sorted(hits, key=lambda hit: (-hit.score, hit.id))[: query.top_k], "approximate", self._recall)

    def stats(self) -> Stats:
        """`recall` is known after a rebuild."""
        self._count = int(self._ask("count", None, "GET"))
        return self.last_stats()

    def last_stats(self) -> Stats:
        """As of the last write from here, or the last `stats`."""
        return Stats(self._count, "approximate", self._recall, 0, self._upkeep.progress)

    def rebuild(self) -> None:
        """The server keeps its own files; what is done here is to measure the recall."""
        self._check_open()
        self._upkeep.start(self._measure)

    def _measure(self, report: Report) -> None:
        """Items that are spread over all are looked for, exactly and by the server."""
        ids = self._ask("get", {"include": []})["ids"]
        asked = list(self._items({"ids": ids[:: max(1, len(ids) // MEASURED)][:MEASURED]}))
        count = min(TOP_K, len(ids) - 1)
        if count < 1:
            return
        best: list[list[tuple[float, str]]] = [[] for _ in asked]
        for start in range(0, len(ids), BATCH):
            report("measuring", start / len(ids))
            items = list(self._items({"ids": ids[start : start + BATCH]}))
            vectors = np.stack([item.vector for item in items])
            for number, item in enumerate(asked):
                near = zip((-scores(vectors, item.vector, 0)).tolist(), (i.id for i in items), strict=True)
                best[number] = sorted([*best[number], *(pair for pair in near if pair[1] != item.id)])[:count]
        hits = 0
        for item, true in zip(asked, best, strict=True):
            found = self.search(Query(item.vector, count, exclude=(item.id,))).hits
            hits += len({hit.id for hit in found} & {id for _, id in true})
        self._recall = Recall(hits / (count * len(asked)), "items")

    def discard(self) -> None:
        _asked(self._client, "DELETE", f"{COLLECTIONS}/{self._name}")

    def close(self) -> None:
        self._upkeep.stop()
        self._closed = True
        self._client.close()

    def _items(self, which: dict[str, Any]) -> Iterator[Item]:
        found = self._ask("get", {**which, "include": ["embeddings", "documents", "metadatas"]})
        columns = (found[name] for name in ("ids", "embeddings", "documents", "metadatas"))
        for id, vector, document, fields in zip(*columns, strict=True):
            yield Item(id, fields[MODALITY], np.array(vector, np.float32), orjson.loads(document))

    def _ask(self, what: str, body: dict[str, Any] | None, method: str = "POST") -> Any:
        self._check_open()
        return _asked(self._client, method, f"{self._path}/{what}", body)

    def _check_open(self) -> None:
        if self._closed:
            raise NotFound(f"{self._where} was removed")


def _client(options: IndexOptions) -> httpx.Client:
    if options.server is None:
        raise EngineError("this index is on a server; say where with --index-server http://host:port")
    return httpx.Client(base_url=options.server, timeout=TIMEOUT_S)


def _asked(client: httpx.Client, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Raises NotReady if there is no server, and EngineError for what it refuses."""
    content = None if body is None else orjson.dumps(body)
    try:
        answer = client.request(method, path, content=content, headers={"content-type": "application/json"})
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NotReady(f"the server of indexes at {client.base_url} does not answer: {error}") from error
    if not answer.is_success:
        raise EngineError(f"the server of indexes answers {answer.status_code}: {answer.text[:200]}")
    return orjson.loads(answer.content)


def _fields(item: Item) -> dict[str, str]:
    """What can be filtered by: its modality, and every field that is a single value."""
    plain = {k: v for k, v in item.metadata.items() if v is None or isinstance(v, str | int | float)}
    return {MODALITY: item.modality, **{FIELD + name: _text(value) for name, value in plain.items()}}


def _text(value: Scalar) -> str:
    """Equal for values that are equal in JSON, where `1` is `1.0`, and `true` is no number."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return orjson.dumps(value).decode() if not isinstance(value, int) or isinstance(value, bool) else str(value)


def _where(query: Query) -> dict[str, Any]:
    wanted = {} if query.modality is None else {MODALITY: query.modality}
    wanted |= {FIELD + name: _text(value) for name, value in query.filter.items()}
    parts = [{name: {"$eq": value}} for name, value in wanted.items()]
    return {"$and": parts} if len(parts) > 1 else next(iter(parts), {})


plugin = Chroma
