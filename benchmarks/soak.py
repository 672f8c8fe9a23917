"""Half an hour of everything at once: every route, bad requests, hang-ups, hot reloads, an index that is written.

    python -m benchmarks.soak [--minutes 30] [--out FILE]

A real server (`--model-control explicit`, keys, all limits as they are by default) answers the shipped models. Every
answer is compared with the expected one, which was computed before in another process with batches of one. Of all
requests 1 % are malformed, 1 % ask for what is not there, 5 % hang up, 2 % expire, and in 1 % the engine fails on one
row of three. Every 20 seconds another version of the model is swapped in. One task puts, replaces, reads and removes
items of an index all the time; in the end every acknowledged write must be there. The memory of the server at the end
is compared with that after a sixth of the time.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from prometheus_client.parser import text_string_to_metric_families
from rich.progress import Progress
from safetensors.numpy import load_file, save_file

from benchmarks._soak_cases import Ask, Known, Wrong, call, cases, learn, learn_one, picture, same
from benchmarks.results import circumstances, publish, table
from serving.client import AsyncClient
from wander.console import progress
from wander.errors import Overloaded, ServiceError

ZOO = Path(__file__).resolve().parents[1] / "zoo"
EMBEDS = "image-text"
RELOAD_S = 20.0
CLIENTS = 12
KEY = "wander_soak_" + "k" * 40
SEED = 0


class Soak:
    """One run. Attributes: counts of (kind, outcome), and what went wrong."""

    def __init__(self, url: str, seconds: float, rate: float) -> None:
        self.client = AsyncClient(url, api_key=KEY, tries=1, timeout_ms=120_000)
        self.seconds = seconds
        self.rate = rate
        self.counts: Counter[tuple[str, str]] = Counter()
        self.wrong: list[str] = []
        self.reloads = 0
        self.acknowledged: dict[str, dict[str, Any] | None] = {}
        self.memory: list[tuple[float, int]] = []
        self._until = time.monotonic() + seconds

    @property
    def running(self) -> bool:
        return time.monotonic() < self._until

    async def ask(self, number: int, kinds: dict[str, tuple[float, Ask]]) -> None:
        """One client: one request after the other, of kinds drawn by their shares."""
        rng = random.Random(f"{SEED}-{number}")
        pause = CLIENTS / self.rate
        names, weights = list(kinds), [share for share, _ in kinds.values()]
        while self.running:
            (kind,) = rng.choices(names, weights)
            try:
                await kinds[kind][1](self.client, rng)
                outcome = "as expected"
            except Overloaded:
                outcome = "refused: overloaded"
            except (Wrong, ServiceError, KeyError) as error:
                outcome = "WRONG"
                self.wrong.append(f"{kind}: {type(error).__name__}: {error}")
            self.counts[kind, outcome] += 1
            await asyncio.sleep(rng.expovariate(1 / pause))

    async def reload(self, name: str, versions: list[str]) -> None:
        turn = 0
        while self.running:
            await asyncio.sleep(min(RELOAD_S, max(0.0, self._until - time.monotonic())))
            turn += 1
            try:
                await self.client.load(name, version=versions[turn % len(versions)])
                self.reloads += 1
            except ServiceError as error:
                self.wrong.append(f"reload: {error}")

    async def write(self, index: str, model: str, texts: list[str]) -> None:
        """Writes an index, and reads back what was acknowledged."""
        rng = random.Random(SEED)
        while self.running:
            id = f"item-{rng.randrange(500)}"
            try:
                if rng.random() < 0.15:
                    await self.client.delete_item(index, id)
                    self.acknowledged[id] = None
                else:
                    metadata = {"turn": rng.randrange(1 << 30)}
                    item = {"text": rng.choice(texts), "metadata": metadata}
                    await self.client.put_item(index, id, item, model=model)
                    self.acknowledged[id] = metadata
                if rng.random() < 0.2:
                    found = await self.client.search(index, {"text": rng.choice(texts)}, model=model)
                    scores = [hit["score"] for hit in found["hits"]]
                    if scores != sorted(scores, reverse=True):
                        self.wrong.append(f"hits out of order: {scores}")
                self.counts["index", "as expected"] += 1
            except ServiceError as error:
                self.counts["index", "WRONG"] += 1
                self.wrong.append(f"index: {error}")
            await asyncio.sleep(rng.expovariate(20))

    async def lost(self, index: str) -> list[str]:
        """Acknowledged writes that are not there, or are otherwise."""
        there: dict[str, Any] = {}
        after = ""
        while True:
            page = await self.client.items(index, limit=500, after=after)
            there |= {item["id"]: item["metadata"] for item in page["items"]}
            if (after := page["next"]) is None:
                break
        return [id for id, metadata in self.acknowledged.items() if there.get(id) != metadata]

    async def watch(self, process: subprocess.Popen[bytes], display: Progress) -> None:
        bar = display.add_task("soak", total=round(self.seconds))
        while self.running:
            await asyncio.sleep(5)
            left = self._until - time.monotonic()
            self.memory.append((self.seconds - left, resident(process.pid)))
            total = sum(self.counts.values())
            display.update(
                bar, completed=round(self.seconds - left), description=f"{total} requests, {len(self.wrong)} wrong"
            )


def resident(pid: int) -> int:
    """Bytes of memory that a process has now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def second_version(source: Path, out: Path) -> Path:
    """A copy of a checkpoint whose scores are one higher."""
    shutil.copytree(source, out)
    path = out / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    (bias,) = [name for name in tensors if name.endswith("out_layer.bias")]
    save_file({**tensors, bias: tensors[bias] + 1}, path)
    return out


def wander(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "wander", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def prepare(folder: Path) -> Path:
    """The models to serve: sentiment in two versions, and one that embeds pictures and texts, if one ships."""
    models = folder / "models"
    wander("export", ZOO / "mosi-sentiment", models / "sentiment")
    wander("export", second_version(ZOO / "mosi-sentiment", folder / "second"), models / "sentiment")
    for config in sorted(ZOO.glob("*/adapter/adapter_config.json")):
        if json.loads(config.read_text())["task"] == "image_text":
            wander("export", config.parents[1], models / EMBEDS)
    return models


async def run(
    urls: tuple[str, str], process: subprocess.Popen[bytes], known: Known, models: Path, seconds: float, rate: float
) -> Soak:
    soak = Soak(urls[0], seconds, rate)
    kinds = cases(known) | {"gRPC": (0.08, call(known, urls[1], KEY))}
    embeds = EMBEDS if (models / EMBEDS).is_dir() else None
    if embeds:
        kinds["image and text"] = (0.04, picture(*await learn_one(models / embeds)))
    texts = [f"a picture of {number} dogs in the {place}" for number in range(20) for place in ("snow", "park", "sea")]
    with progress() as display:
        tasks = [
            *(soak.ask(number, kinds) for number in range(CLIENTS)),
            soak.reload(known.name, sorted(known.answers)),
            soak.watch(process, display),
            *([soak.write("soak", embeds, texts)] if embeds else []),
        ]
        await asyncio.gather(*tasks)
    if embeds and (lost := await soak.lost("soak")):
        soak.wrong += [f"lost write: {id}" for id in lost]
    soak.counts["5xx of the server", "counted"] = await server_errors(soak.client)
    await soak.client.aclose()
    return soak


async def server_errors(client: AsyncClient) -> int:
    """Answers with 5xx by the server's own count, but 504, which was asked for. Faults of items stand in a 200."""
    samples = [s for f in text_string_to_metric_families(await client.metrics()) for s in f.samples]
    counted = [s for s in samples if s.name == "wander_request_seconds_count"]
    return round(sum(s.value for s in counted if s.labels["status"][0] == "5" and s.labels["status"] != "504"))


def main(
    minutes: Annotated[float, typer.Option(min=0.05, help="How long.")] = 30,
    rate: Annotated[float, typer.Option(min=1, help="Requests a second, at most, beside the index.")] = 100,
    workers: Annotated[int, typer.Option(min=1, help="Processes of the server.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Also write FILE.md and FILE.json.")] = None,
) -> None:
    """Exits 1 if anything was wrong."""
    about = circumstances("benchmarks.soak", ("onnxruntime", "fastapi", "uvicorn"))
    with tempfile.TemporaryDirectory() as scratch:
        models = prepare(Path(scratch))
        known = asyncio.run(learn(models / "sentiment", SEED))
        for version, answers in known.answers.items():
            if version != "1":
                same({"score": known.answers["1"][0]["score"] + 1}, {"score": answers[0]["score"]})
        keys = [{"name": "soak", "key": KEY, "roles": ["infer", "index-write", "admin"]}]
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "benchmarks._soak_server", "serve", models, "--port", "0", "--grpc-port", "0"),
                *("--model-control", "explicit", "--indexes", Path(scratch) / "indexes", "--workers", str(workers)),
                *("--log-level", "error"),
            ],
            stderr=subprocess.PIPE,
            env={**os.environ, "WANDER_KEYS": json.dumps(keys)},
        )
        try:
            assert server.stderr is not None
            url, address = (
                next(line.decode().split()[place] for line in server.stderr if line.startswith(begin))
                for begin, place in ((b"serving on", 2), (b"serving gRPC on", 3))
            )
            soak = asyncio.run(run((url, address), server, known, models, minutes * 60, rate))
        finally:
            server.send_signal(signal.SIGTERM)
            _, log = server.communicate()
    unforeseen = [line for line in log.decode().splitlines() if " ERROR " in line]
    rows = [[kind, outcome, count] for (kind, outcome), count in sorted(soak.counts.items())]
    sixth = next(size for at, size in soak.memory if at >= minutes * 10)
    growth = soak.memory[-1][1] / sixth - 1
    facts = {
        "requests": sum(soak.counts.values()),
        "wrong": len(soak.wrong),
        "reloads": soak.reloads,
        "items written": len(soak.acknowledged),
        "memory after a sixth, MB": round(sixth / 1e6, 1),
        "memory at the end, MB": round(soak.memory[-1][1] / 1e6, 1),
        "growth": f"{growth:+.1%}",
        "errors in the log": len(unforeseen),
    }
    body = [table(["what", ""], list(facts.items())), table(["kind", "outcome", "requests"], rows)]
    data = {"facts": facts, "wrong": soak.wrong[:50], "log": unforeseen[:20], "memory": soak.memory}
    publish("Soak", about, [*body, *soak.wrong[:10], *unforeseen[:5]], data, out)
    if soak.wrong or unforeseen or soak.counts["5xx of the server", "counted"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
