"""What a soak asks: requests of every kind with the answers they must get. Knows nothing of load and time."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton
from numpy.typing import NDArray

from benchmarks._soak_server import MARK
from serving.client import AsyncClient
from serving.metrics import Metrics
from serving.repository import Repository
from serving.service import Service, Target
from serving.settings import Settings
from wander.bundle import Bundle, versions
from wander.errors import DeadlineExceeded, EngineError, InputError, MalformedBody, NotFound, ServiceError

TOLERANCE = 1e-4
"""Batches of other sizes round otherwise; a wrong answer is off by more."""
VOLATILE = {"timing", "version", "adapter", "model"}


class Wrong(AssertionError):
    """An answer that is not the expected one."""


@dataclass(frozen=True)
class Known:
    """A model, and what each of its versions answers to the items and rows that the soak asks for."""

    name: str
    task: str
    operation: str
    items: list[dict[str, Any]]
    answers: dict[str, list[dict[str, Any]]]
    rows: dict[str, NDArray[Any]]
    outputs: dict[str, dict[str, NDArray[Any]]] = field(default_factory=dict)

    def check(self, index: int, answer: Mapping[str, Any]) -> None:
        same(answer, self.answers[answer["version"]][index])


def same(answer: Any, expected: Any, where: str = "") -> None:
    """Raises Wrong unless numbers agree within the tolerance and all else is equal."""
    if isinstance(expected, dict):
        for name in set(expected) - VOLATILE:
            same(answer[name], expected[name], f"{where}.{name}")
    elif isinstance(expected, list):
        if len(answer) != len(expected):
            raise Wrong(f"{where} has {len(answer)} elements, not {len(expected)}")
        for number, (one, other) in enumerate(zip(answer, expected, strict=True)):
            same(one, other, f"{where}[{number}]")
    elif isinstance(expected, float):
        if not math.isclose(answer, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            raise Wrong(f"{where} is {answer}, not {expected}")
    elif answer != expected:
        raise Wrong(f"{where} is {answer!r}, not {expected!r}")


async def learn_one(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The item that came with a bundle, and its answer."""
    bundle = Bundle.open(folder)
    settings = Settings(models=folder.parent, instances=1, threads=1)
    service = Service(Repository(settings, Metrics()), settings, Metrics())
    service.repository.load([bundle])
    item = json.loads((bundle.path / "example.json").read_text())
    target = Target(bundle.manifest.task, next(iter(service.repository.defaults[0].task.operations)), bundle.name)
    decoded = {name: base64.b64decode(value) if name == "image" else value for name, value in item.items()}
    answer = (await service.predict(target, decoded)).to_json()
    await asyncio.to_thread(service.close)
    return decoded, answer


async def learn(folder: Path, seed: int, count: int = 24) -> Known:
    """Asks every version of a one-graph model, one item at a time, in this process."""
    rng = np.random.default_rng(seed)
    latest = Bundle.open(folder)
    example = json.loads((latest.path / "example.json").read_text())
    items = [_varied(example, rng) for _ in range(count)]
    samples = latest.samples("model")
    rows = {
        name: (value[:8] + rng.normal(0, 0.1, value[:8].shape)).astype(value.dtype)
        for name, value in samples.inputs.items()
        if value.dtype.kind == "f"
    }
    known = Known(latest.name, latest.manifest.task, "", items, {}, rows)
    for version in map(str, versions(folder)):
        settings = Settings(models=folder.parent, instances=1, threads=1)
        service = Service(Repository(settings, Metrics()), settings, Metrics())
        service.repository.load([Bundle.open(folder / version)])
        target = Target(known.task, "", known.name)
        known.answers[version] = [(await service.predict(target, item)).to_json() for item in items]
        if len(rows) == len(samples.inputs):
            known.outputs[version] = dict((await service.infer(known.name, rows)).outputs)
        await asyncio.to_thread(service.close)
    return known


def _varied(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Numbers get noise; everything else stays."""

    def varied(value: Any) -> Any:
        if isinstance(value, list) and value and isinstance(value[0], list):
            noisy = np.asarray(value, np.float64) + rng.normal(0, 0.3, np.shape(value))
            return np.round(noisy, 4).tolist()
        return value

    return {name: varied(value) for name, value in example.items()}


Ask = Callable[[AsyncClient, random.Random], Awaitable[None]]


def picture(item: dict[str, Any], expected: dict[str, Any]) -> Ask:
    """An image and a text to their score, as a form."""

    async def ask(client: AsyncClient, rng: random.Random) -> None:
        same(await client.predict("image_text", item, operation="score"), expected)

    return ask


def call(known: Known, address: str, key: str) -> Ask:
    """Tensors over gRPC."""
    client = triton.InferenceServerClient(address)

    async def ask(_: AsyncClient, rng: random.Random) -> None:
        start = rng.randrange(6)
        inputs = []
        for name, value in known.rows.items():
            part = np.ascontiguousarray(value[start : start + 2])
            inputs.append(triton.InferInput(name, part.shape, "FP32"))
            inputs[-1].set_data_from_numpy(part)
        answer = await client.infer(known.name, inputs, headers={"authorization": f"Bearer {key}"})
        version = answer.get_response().model_version
        for name, value in known.outputs[version].items():
            same(answer.as_numpy(name).tolist(), value[start : start + 2].tolist(), name)

    return ask


def cases(known: Known) -> dict[str, tuple[float, Ask]]:
    """Kind -> its share of the load, and what asks one and checks the answer. Together they are every route."""
    name, task = known.name, known.task

    async def single(client: AsyncClient, rng: random.Random) -> None:
        index = rng.randrange(len(known.items))
        known.check(index, await client.predict(task, known.items[index], model=name))

    async def bulk(client: AsyncClient, rng: random.Random) -> None:
        chosen = [rng.randrange(len(known.items)) for _ in range(rng.randint(2, 12))]
        for index, answer in zip(
            chosen, await client.predict_many(task, [known.items[i] for i in chosen], model=name), strict=True
        ):
            if isinstance(answer, ServiceError):
                raise answer
            known.check(index, answer)

    async def tensors(client: AsyncClient, rng: random.Random) -> None:
        start, rows = rng.randrange(4), rng.randint(1, 4)
        inputs = {key: value[start : start + rows] for key, value in known.rows.items()}
        outputs = await client.infer(name, inputs, binary=rng.random() < 0.7)
        matching = [
            version
            for version, expected in known.outputs.items()
            if all(
                np.allclose(outputs[key], value[start : start + rows], TOLERANCE, TOLERANCE)
                for key, value in expected.items()
            )
        ]
        if not matching:
            raise Wrong(f"tensors of no version: {outputs}")

    async def malformed(client: AsyncClient, rng: random.Random) -> None:
        bad: list[dict[str, Any]] = [{}, {"text": "no numbers"}, {**known.items[0], "colour": 1}, {"text": [[1.0]]}]
        try:
            await client.predict(task, rng.choice(bad), model=name)
        except (InputError, MalformedBody):
            return
        raise Wrong("a malformed item was answered")

    async def unknown(client: AsyncClient, rng: random.Random) -> None:
        try:
            await client.predict(task, known.items[0], model="nobody")
        except NotFound:
            return
        raise Wrong("a model that is not there answered")

    async def expired(client: AsyncClient, rng: random.Random) -> None:
        index = rng.randrange(len(known.items))
        try:
            answer = await client.predict(task, known.items[index], model=name, timeout_ms=rng.choice([0.01, 1, 3]))
        except DeadlineExceeded:
            return
        known.check(index, answer)

    async def cancelled(client: AsyncClient, rng: random.Random) -> None:
        index = rng.randrange(len(known.items))
        asking = asyncio.ensure_future(client.predict(task, known.items[index], model=name))
        done, _ = await asyncio.wait([asking], timeout=rng.uniform(0.0, 0.02))
        if done:
            known.check(index, asking.result())
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    async def faulty(client: AsyncClient, rng: random.Random) -> None:
        """A row on which the engine fails, among others on which it does not."""
        first = next(iter(known.rows))
        marked = dict(known.items[0])
        marked[first] = [[MARK, *row[1:]] if number == 0 else row for number, row in enumerate(marked[first])]
        good = rng.randrange(len(known.items))
        answers = await client.predict_many(task, [known.items[good], marked, known.items[good]], model=name)
        if not isinstance(answers[1], EngineError):
            raise Wrong(f"the injected fault came back as {answers[1]!r}")
        for answer in (answers[0], answers[2]):
            if isinstance(answer, ServiceError):
                raise Wrong(f"a batch mate of the injected fault failed: {answer}")
            known.check(good, answer)

    async def told(client: AsyncClient, rng: random.Random) -> None:
        ask = rng.choice(
            [client.models, client.ready, client.metrics, client.server_metadata, client.statistics, client.repository]
        )
        await ask()
        await client.model(name)
        await client.model_metadata(name)

    return {
        "single": (0.40, single),
        "bulk": (0.14, bulk),
        "tensors": (0.32, tensors),
        "told": (0.04, told),
        "malformed": (0.01, malformed),
        "unknown": (0.01, unknown),
        "cancelled": (0.05, cancelled),
        "expired": (0.02, expired),
        "engine fault": (0.01, faulty),
    }
