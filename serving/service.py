"""The data plane: items in, answers out. Knows no protocol; every protocol only translates to and from it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from serving.answers import Answer, Inference, Timing
from serving.auth import charge, read_keys
from serving.metrics import Metrics
from serving.model import Model
from serving.preprocessing import Preprocessing
from serving.repository import Repository
from serving.settings import Settings
from serving.tickets import Result
from wander.errors import InputError, NotFound, Overloaded, ServiceError, TooLarge
from wander.signature import Arrays, Signature
from wander.tasks.base import Item

if TYPE_CHECKING:
    from serving.tracing import Tracing


@dataclass(frozen=True)
class Target:
    """Which model a request means, and what is asked of it. Without a name, the only one that does the task."""

    task: str
    operation: str = ""
    model: str | None = None
    version: str | None = None
    adapter: str | None = None


class Service:
    """Items go through resolve, preprocess in a pool, queue, postprocess; tensors go through the queue alone.

    Attributes:
        first: whether this process holds what there can be only once, as the indexes; false for all workers but one,
            and where no process can be that one.
        tracing: is told of every item that is answered, if there is any.
    """

    def __init__(self, repository: Repository, settings: Settings, metrics: Metrics, *, first: bool = True) -> None:
        self.first = first
        self.repository = repository
        self.settings = settings
        self.metrics = metrics
        self.tracing: Tracing | None = None
        self.keys = read_keys(settings.keys)
        self._preprocessing = Preprocessing()

    def resolve(self, target: Target, item: Item | None = None) -> Model:
        """The model that is meant, by its name or by what it is to be asked.

        Raises NotFound, also for a model of another task or without that adapter, and NotReady.
        """
        if target.model is None:
            if target.version is not None:
                raise InputError("a version needs the name of its model", "model")
            model = self.repository.only(target.task, item)
        else:
            model = self.repository.get(target.model, target.version)
        manifest = model.bundle.manifest
        if manifest.task != target.task:
            raise NotFound(f"model {model.name!r} does the task {manifest.task!r}, not {target.task!r}")
        _check_adapter(model, target.adapter)
        return model

    def admit(self, name: str, version: str | None) -> None:
        """Raises Overloaded if a graph has no room for a row: a protocol asks before it reads what it would refuse.

        What else `infer` would raise is left to it.
        """
        try:
            model, graph = self.repository.graph(name, version)
        except ServiceError:
            return
        try:
            model.queues[graph].admit(1)
        except Overloaded as error:
            self._count(model, error)
            raise

    async def infer(
        self,
        name: str,
        inputs: Arrays,
        *,
        version: str | None = None,
        adapter: str | None = None,
        deadline: float | None = None,
        bulk: bool = False,
        outputs: Collection[str] | None = None,
    ) -> Inference:
        """Runs one graph on a batch of tensors (rows, ..).

        Args:
            name: of a graph, as `Repository.graph` knows it.
            outputs: which are wanted, in that order; None for all.
            deadline: on the clock of `time.monotonic()`.
            bulk: whether the rows may wait for those of others.

        Raises InputError that names the tensor, and the other errors of a service.
        """
        started = time.monotonic()
        model, graph = self.repository.graph(name, version)
        try:
            with model.lease():
                _check_adapter(model, adapter)
                self._check_sizes(inputs)
                signature = model.bundle.manifest.graphs[graph].signature
                rows = signature.check(inputs)
                if outputs is not None:
                    _check_outputs(signature, outputs)
                charge(rows)
                result = await self._run(model, graph, inputs, self._deadline(deadline), bulk=bulk)
        except ServiceError as error:
            self._count(model, error)
            raise
        timing = Timing(queue=result.queued, inference=result.inference)
        self._observe(model, "queue", timing.queue)
        self._observe(model, "inference", timing.inference)
        self._observe(model, "request", time.monotonic() - started)
        if self.tracing is not None:
            self.tracing.stages(model, timing)
        wanted = result.outputs if outputs is None else {name: result.outputs[name] for name in outputs}
        return Inference(wanted, model, graph, timing)

    async def _run(self, model: Model, graph: str, inputs: Arrays, deadline: float, *, bulk: bool) -> Result:
        """Rows through the queue of a graph, and into its statistics."""
        statistics, started = model.statistics[graph], time.monotonic()
        try:
            result = await model.queues[graph].submit(inputs, deadline, bulk=bulk)
        except BaseException:
            statistics.fail.add(time.monotonic() - started)
            raise
        statistics.succeed(time.monotonic() - started, result.queued, result.inference)
        return result

    def _check_sizes(self, inputs: Arrays) -> None:
        """Raises TooLarge for more rows than a request may have, and for a dimension that is longer than allowed."""
        for name, array in inputs.items():
            if array.ndim and len(array) > self.settings.max_items:
                raise TooLarge(f"{name} has {len(array)} rows; at most {self.settings.max_items} are taken", name)
            if max(array.shape[1:], default=0) > self.settings.max_length:
                raise TooLarge(f"{name} has shape {array.shape}; no side may exceed {self.settings.max_length}", name)

    async def predict(self, target: Target, item: Item, deadline: float | None = None) -> Answer:
        """Answers one item. `deadline` is on the clock of `time.monotonic()`.

        Raises InputError that names the field, and the other errors of a service.
        """
        model = self.resolve(target, item)
        try:
            return await self._answer(model, target.operation, item, self._deadline(deadline), bulk=False)
        except ServiceError as error:
            self._count(model, error)
            raise

    async def predict_many(
        self, target: Target, items: Sequence[Item], deadline: float | None = None
    ) -> list[Answer | ServiceError]:
        """Answers items in order; an item that fails costs no other its answer.

        Raises what concerns all: NotFound, NotReady, TooLarge for too many items, Overloaded if they find no room.
        """
        if len(items) > self.settings.max_items:
            raise TooLarge(f"{len(items)} items are more than the {self.settings.max_items} of one request", "items")
        model = self.resolve(target, items[0] if items else None)
        until = self._deadline(deadline)
        name = target.operation
        try:
            charge(len(items))
            for queue in model.queues.values():
                queue.admit(len(items))
        except ServiceError as error:
            self._count(model, error)
            raise
        with model.lease():
            tried = [self._attempt(model, name, i, item, until) for i, item in enumerate(items)]
            return list(await asyncio.gather(*tried))

    async def _attempt(
        self, model: Model, operation: str, index: int, item: Item, deadline: float
    ) -> Answer | ServiceError:
        try:
            return await self._answer(model, operation, item, deadline, bulk=True)
        except ServiceError as error:
            self._count(model, error)
            return error.within(f"items[{index}]") if isinstance(error, InputError) else error

    async def _answer(self, model: Model, operation: str, item: Item, deadline: float, *, bulk: bool) -> Answer:
        timing, began = Timing(), time.monotonic()
        with model.lease():
            asked = model.task.operation(operation)
            if any(isinstance(item.get(name), bytes) for name in model.task.slow):
                calls, timing.preprocess = await self._preprocessing.run_slowly(asked, item, deadline)
            else:
                calls, timing.preprocess = await self._preprocessing.run(asked, item)
            for arrays in calls.values():
                self._check_sizes(_as_batch(arrays))
            submitted = [self._run(model, g, _as_batch(a), deadline, bulk=bulk) for g, a in calls.items()]
            results: list[Result] = await asyncio.gather(*submitted)
        timing.queue = max(result.queued for result in results)
        timing.inference = max(result.inference for result in results)
        outputs: dict[str, Arrays] = {
            graph: {name: value[0] for name, value in result.outputs.items()}
            for graph, result in zip(calls, results, strict=True)
        }
        check_finite(outputs)
        started = time.monotonic()
        content = asked.postprocess(item, outputs)
        timing.postprocess = time.monotonic() - started
        for stage, seconds in vars(timing).items():
            self._observe(model, stage, seconds)
        self._observe(model, "request", time.monotonic() - began)
        if self.tracing is not None:
            self.tracing.stages(model, timing)
        return Answer(content, model, timing)

    def _observe(self, model: Model, stage: str, seconds: float) -> None:
        if (histogram := model.stages.get(stage)) is None:
            labels = (*model.labels, self.settings.engine, stage)
            histogram = model.stages[stage] = self.metrics.stages.labels(*labels)
        histogram.observe(seconds)

    def _deadline(self, deadline: float | None) -> float:
        latest = time.monotonic() + self.settings.timeout_ms / 1000
        return latest if deadline is None else min(deadline, latest)

    def _count(self, model: Model, error: ServiceError) -> None:
        self.metrics.rejections.labels(model.name, type(error).__name__).inc()

    def close(self) -> None:
        self.repository.close()
        self._preprocessing.close()


def check_finite(outputs: Mapping[str, Arrays]) -> None:
    """Raises InputError for an answer that means nothing, and that JSON cannot hold.

    Graphs answer their own samples with finite numbers, or else they are not served; so it is the input.
    """
    for arrays in outputs.values():
        for name, value in arrays.items():
            if not np.isfinite(value).all():
                raise InputError(f"{name} comes out as values that are not finite: are those that went in too large?")


def _check_adapter(model: Model, adapter: str | None) -> None:
    if adapter is not None and adapter != model.adapter:
        raise NotFound(f"model {model.name!r} has the adapter {model.adapter!r}, not {adapter!r}")


def _check_outputs(signature: Signature, wanted: Collection[str]) -> None:
    known = [spec.name for spec in signature.outputs]
    if unknown := [name for name in wanted if name not in known]:
        raise InputError(f"unknown output {unknown[0]}; this graph gives {', '.join(known)}", unknown[0])


def _as_batch(arrays: Arrays) -> dict[str, Any]:
    return {name: value[None] for name, value in arrays.items()}
