"""An index behind a server: many clients that write and read at once, and a server that is killed while they write."""

from __future__ import annotations

import asyncio
import csv
import random
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.startup import server
from serving.client import AsyncClient
from wander.errors import ServiceError, WanderError

INDEX = "captions"
BULK = 256
AT_ONCE = 4
"""Bulk requests that are under way together, to fill the index."""
GROUP = 5
"""Items of one write while the server is killed."""
Spent = dict[str, list[float]]


def captions(path: Path, most: int) -> list[str]:
    """Distinct ones, in their order; if they are too few, also pairs of them that are drawn."""
    with path.open(encoding="utf-8", newline="") as file:
        found = dict.fromkeys(row["caption"] for row in csv.DictReader(file))
    single, chance = list(found), random.Random(0)
    while len(found) < most:
        found[" and ".join(chance.sample(single, 2))] = None
    return list(found)[:most]


class Load:
    """Attributes: kept: what was acknowledged last, by id; None for what was deleted. wrong: what should not be."""

    def __init__(self, client: AsyncClient, texts: list[str]) -> None:
        self.client = client
        self.texts = texts
        self.kept: dict[str, dict[str, Any] | None] = {}
        self.wrong: list[str] = []
        self.spent: Spent = defaultdict(list)
        self.modes: dict[str, int] = defaultdict(int)

    async def fill(self) -> float:
        """Puts every text, and returns the seconds it took."""
        started = time.monotonic()
        turns = asyncio.Semaphore(AT_ONCE)

        async def put(start: int) -> None:
            ids = range(start, min(start + BULK, len(self.texts)))
            items = [{"id": f"{n:07}", "text": self.texts[n], "metadata": {"turn": 0}} for n in ids]
            async with turns:
                results = await self.client.put_items(INDEX, items)
            self.wrong += [f"fill: {one}" for one in results if isinstance(one, ServiceError)]
            self.kept |= {item["id"]: item["metadata"] for item in items}  # type: ignore[dict-item]

        await asyncio.gather(*(put(start) for start in range(0, len(self.texts), BULK)))
        return time.monotonic() - started

    async def ask(self, number: int, clients: int, until: float) -> None:
        """One client; it alone writes the items whose number leaves its own when divided by the number of clients."""
        chance = random.Random(number)
        while time.monotonic() < until:
            id = f"{chance.randrange(len(self.texts) // clients) * clients + number:07}"
            text = chance.choice(self.texts)
            kind = chance.choices(("search", "put", "delete", "get"), (60, 25, 5, 10))[0]
            started = time.monotonic()
            try:
                if kind == "search":
                    found = await self.client.search(INDEX, {"text": text})
                    self.modes[found["mode"]] += 1
                    scores = [hit["score"] for hit in found["hits"]]
                    if len(scores) != 10 or scores != sorted(scores, reverse=True):
                        self.wrong.append(f"hits: {scores}")
                elif kind == "put":
                    metadata = {"turn": chance.randrange(1 << 30)}
                    await self.client.put_item(INDEX, id, {"text": text}, metadata=metadata)
                    self.kept[id] = metadata
                elif kind == "delete":
                    await self.client.delete_item(INDEX, id)
                    self.kept[id] = None
                else:
                    await self._read(id)
            except ServiceError as error:
                self.wrong.append(f"{kind}: {error}")
            self.spent[kind].append(time.monotonic() - started)

    async def _read(self, id: str) -> None:
        wanted = self.kept.get(id)
        try:
            item = await self.client.get_item(INDEX, id)
        except ServiceError as error:
            if wanted is not None:
                self.wrong.append(f"lost {id}: {error}")
            return
        if item["metadata"] != wanted:
            self.wrong.append(f"{id} is {item['metadata']}, not {wanted}")

    async def compare(self) -> None:
        """Everything that is there with everything that was acknowledged."""
        there = await everything(self.client)
        wanted = {id: metadata for id, metadata in self.kept.items() if metadata is not None}
        if there != wanted:
            different = {id for id in there.keys() | wanted.keys() if there.get(id) != wanted.get(id)}
            self.wrong.append(f"{len(different)} items are not what was acknowledged")


async def everything(client: AsyncClient) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    after: str | None = ""
    while after is not None:
        page = await client.items(INDEX, limit=1000, after=after)
        found |= {item["id"]: item["metadata"] for item in page["items"]}
        after = page["next"]
    return found


async def together(
    models: Path, indexes: Path, texts: list[str], clients: int, seconds: float, step: Callable[[str], None]
) -> dict[str, Any]:
    with server(models, "--indexes", str(indexes), "--timeout-ms", "120000") as running:
        async with AsyncClient(f"http://127.0.0.1:{running.port}", timeout_ms=120_000) as client:
            load = Load(client, texts)
            filled = await load.fill()
            step(f"{len(texts):,} items after {filled:.0f} s")
            while (about := await client.get_index(INDEX))["mode"] == "exact":
                if about["rebuild"] is None or about["rebuild"]["stage"] in ("done", "failed"):
                    break
                await asyncio.sleep(0.2)
            until = time.monotonic() + seconds
            await asyncio.gather(*(load.ask(number, clients, until) for number in range(clients)))
            await load.compare()
            step("compared")
            after = await client.get_index(INDEX)
    kinds = {kind: summary(spent) for kind, spent in sorted(load.spent.items())}
    every = sum(len(spent) for spent in load.spent.values())
    return {
        "items": len(texts), "clients": clients, "seconds": seconds, "fill_s": filled,
        "requests_a_second": every / seconds,
        "kinds": kinds, "modes": dict(load.modes), "wrong": load.wrong[:20], "wrong_count": len(load.wrong),
        "before": about, "after": after,
    }  # fmt: skip


def summary(seconds: list[float]) -> dict[str, float]:
    p50, p99 = np.quantile(seconds, (0.5, 0.99)).tolist()
    return {"requests": len(seconds), "p50_ms": 1000 * p50, "p99_ms": 1000 * p99}


async def kills(
    models: Path, indexes: Path, texts: list[str], times: int, step: Callable[[str], None]
) -> dict[str, Any]:
    """Several writers put groups of items until the server is killed; then it is started again, and looked at."""
    chance = random.Random(0)
    acknowledged: set[str] = set()
    wrong: list[str] = []
    first = 0
    for turn in range(times + 1):
        with server(models, "--indexes", str(indexes)) as running:
            url = f"http://127.0.0.1:{running.port}"
            async with AsyncClient(url, tries=1) as client:
                if turn:
                    wrong += _judge(await everything(client), acknowledged)
                if turn == times:
                    break
                writers = [asyncio.create_task(_write(client, texts, first + w, acknowledged)) for w in range(4)]
                await asyncio.sleep(chance.uniform(0.3, 2.0))
                running.process.kill()
                await asyncio.gather(*writers)
                first += 1_000_000
        step(f"killed {turn + 1} times, {len(acknowledged):,} groups acknowledged")
    return {"kills": times, "acknowledged_items": GROUP * len(acknowledged), "wrong": wrong}


async def _write(client: AsyncClient, texts: list[str], number: int, acknowledged: set[str]) -> None:
    while True:
        group = f"{number:09}"
        metadata = {"group": group, "pad": "x" * 200}
        items = [
            {"id": f"{group}-{i}", "text": texts[(number + i) % len(texts)], "metadata": metadata} for i in range(GROUP)
        ]
        try:
            await client.put_items(INDEX, items)
        except WanderError:
            return
        acknowledged.add(group)
        number += 4


def _judge(there: dict[str, dict[str, Any]], acknowledged: set[str]) -> list[str]:
    groups: dict[str, int] = defaultdict(int)
    wrong = []
    for id, metadata in there.items():
        group = id.partition("-")[0]
        groups[group] += 1
        if metadata != {"group": group, "pad": "x" * 200}:
            wrong.append(f"{id} is half written")
    wrong += [f"{group} is lost" for group in acknowledged if group not in groups]
    return wrong + [f"{group} is half there" for group, size in groups.items() if size != GROUP]
