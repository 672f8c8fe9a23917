"""The data plane: items in, answers out. Knows no protocol; every protocol only translates to and from it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving.batching import Result
from serving.metrics import Metrics
from serving.repository import Model, Repository
from serving.settings import Settings
from wander.errors import EngineError, InputError, NotFound, ServiceError, TooLarge
from wander.signature import Arrays
from wander.tasks.base import Calls, Item


@dataclass
class Timing:
    """Seconds that one item spent in each stage; with several graphs the longest of them."""

    queue: float = 0.0
    preprocess: float = 0.0
    inference: float = 0.0
    postprocess: float = 0.0

    def milliseconds(self) -> dict[str, float]:
        return {stage: round(seconds * 1000, 3) for stage, seconds in vars(self).items()}


@dataclass(frozen=True)
class Answer:
    """What a task says of one item, and how it came about."""

    content: dict[str, Any]
    model: Model
    timing: Timing = field(default_factory=Timing)

    def to_json(self) -> dict[str, Any]:
        return {
            **self.content,
            "model": self.model.name,
            "version": self.model.version,
            "adapter": self.model.adapter,
            "timing": self.timing.milliseconds(),
        }


@dataclass(frozen=True)
class Target:
    """Which model a request means, and what is asked of it. Without a name, the only one that does the task."""

    task: str
    operation: str = ""
    model: str | None = None
    version: str | None = None
    adapter: str | None = None


class Service:
    """Resolve, preprocess in a pool, queue, postprocess."""

    def __init__(self, repository: Repository, settings: Settings, metrics: Metrics) -> None:
        self.repository = repository
        self.settings = settings
        self.metrics = metrics
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="preprocess")

    def resolve(self, target: Target) -> Model:
        """Raises NotFound, also for a model of another task or without that adapter, and NotReady."""
        if target.model is None:
            if target.version is not None:
                raise InputError("a version needs the name of its model", "model")
            model = self.repository.only(target.task)
        else:
            model = self.repository.get(target.model, target.version)
        manifest = model.bundle.manifest
        if manifest.task != target.task:
            raise NotFound(f"model {model.name!r} does the task {manifest.task!r}, not {target.task!r}")
        if target.adapter is not None and target.adapter != model.adapter:
            raise NotFound(f"model {model.name!r} has the adapter {model.adapter!r}, not {target.adapter!r}")
        return model

    async def predict(self, target: Target, item: Item, deadline: float | None = None) -> Answer:
        """Answers one item. `deadline` is on the clock of `time.monotonic()`.

        Raises InputError that names the field, and the other errors of a service.
        """
        model = self.resolve(target)
        try:
            return await self._answer(model, target.operation, item, self._deadline(deadline))
        except ServiceError as error:
            self._count(model, error)
            raise

    async def predict_many(
        self, target: Target, items: Sequence[Item], deadline: float | None = None
    ) -> list[Answer | ServiceError]:
        """Answers items in order; an item that fails costs no other its answer.

        Raises what concerns all: NotFound, NotReady, TooLarge for too many items.
        """
        if len(items) > self.settings.max_items:
            raise TooLarge(f"{len(items)} items are more than the {self.settings.max_items} of one request", "items")
        model = self.resolve(target)
        until = self._deadline(deadline)
        name = target.operation
        return list(await asyncio.gather(*(self._attempt(model, name, i, item, until) for i, item in enumerate(items))))

    async def _attempt(
        self, model: Model, operation: str, index: int, item: Item, deadline: float
    ) -> Answer | ServiceError:
        try:
            return await self._answer(model, operation, item, deadline)
        except ServiceError as error:
            self._count(model, error)
            return error.within(f"items[{index}]") if isinstance(error, InputError) else error

    async def _answer(self, model: Model, operation: str, item: Item, deadline: float) -> Answer:
        timing = Timing()
        asked = model.task.operation(operation)
        calls: Calls = await self._timed(timing, "preprocess", asked.preprocess, item)
        queues = model.queues
        results: list[Result] = await asyncio.gather(
            *(queues[graph].submit(_as_batch(arrays), deadline) for graph, arrays in calls.items())
        )
        timing.queue = max(result.queued for result in results)
        timing.inference = max(result.inference for result in results)
        outputs: dict[str, Arrays] = {
            graph: {name: value[0] for name, value in result.outputs.items()}
            for graph, result in zip(calls, results, strict=True)
        }
        _check_finite(outputs)
        started = time.monotonic()
        content = asked.postprocess(item, outputs)
        timing.postprocess = time.monotonic() - started
        for stage, seconds in vars(timing).items():
            self.metrics.stages.labels(*model.labels, stage).observe(seconds)
        return Answer(content, model, timing)

    async def _timed(self, timing: Timing, stage: str, function: Any, *arguments: Any) -> Any:
        """Runs a function in the pool; its own time counts, not its wait for a place there."""

        def call() -> tuple[Any, float]:
            started = time.monotonic()
            return function(*arguments), time.monotonic() - started

        result, seconds = await asyncio.get_running_loop().run_in_executor(self._pool, call)
        setattr(timing, stage, seconds)
        return result

    def _deadline(self, deadline: float | None) -> float:
        latest = time.monotonic() + self.settings.timeout_ms / 1000
        return latest if deadline is None else min(deadline, latest)

    def _count(self, model: Model, error: ServiceError) -> None:
        self.metrics.rejections.labels(model.name, type(error).__name__).inc()

    def close(self) -> None:
        self.repository.close()
        self._pool.shutdown(wait=False, cancel_futures=True)


def _check_finite(outputs: dict[str, Arrays]) -> None:
    """Raises EngineError for an answer that means nothing, and that JSON cannot hold."""
    for arrays in outputs.values():
        for name, value in arrays.items():
            if not np.isfinite(value).all():
                raise EngineError(f"{name} came back with values that are not finite; are those of the item too large?")


def _as_batch(arrays: Arrays) -> dict[str, Any]:
    return {name: value[None] for name, value in arrays.items()}
