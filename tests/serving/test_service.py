"""The data plane without a protocol: whom a request reaches, what one bad item costs, and what is counted."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from serving import preprocessing
from serving.answers import Answer
from serving.metrics import Metrics
from serving.repository import Repository
from serving.service import Service, Target
from serving.settings import Settings
from tests.serving.building import Linear, item, items, publish, random_rows
from wander.engines.fake import FakeSession
from wander.errors import DeadlineExceeded, InputError, NotFound, NotReady, Overloaded, ServiceError, TooLarge

T = TypeVar("T")


@contextmanager
def loaded(folder: Path, **settings: Any) -> Iterator[Service]:
    chosen = Settings(models=folder, **settings)
    metrics = Metrics()
    service = Service(Repository(chosen, metrics), chosen, metrics)
    service.repository.load()
    try:
        yield service
    finally:
        service.close()


@pytest.fixture(scope="module")
def service(models: Path) -> Iterator[Service]:
    with loaded(models, max_items=5) as started:
        yield started


def wait(call: Callable[[], Awaitable[T]]) -> T:
    async def awaited() -> T:
        return await call()

    return asyncio.run(awaited())


def sample(service: Service, name: str, labels: dict[str, str]) -> float:
    return service.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.mark.parametrize(("task", "name"), [("sentiment", "mosi"), ("emotion", "iemocap")])
def test_only_model_of_a_task_is_the_default(service: Service, task: str, name: str) -> None:
    assert service.resolve(Target(task)).name == name
    assert service.resolve(Target(task, "", name, "1", "linear")).name == name


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target("sentiment", model="none"), "there are: iemocap, mosi"),
        (Target("sentiment", model="mosi", version="2"), "has version 1 loaded, not '2'"),
        (Target("sentiment", model="mosi", adapter="other"), "has the adapter 'linear', not 'other'"),
        (Target("sentiment", model="iemocap"), "does the task 'emotion', not 'sentiment'"),
        (Target("tensors"), "no model for the task 'tensors'"),
    ],
)
def test_what_is_not_there_is_named(service: Service, target: Target, message: str) -> None:
    with pytest.raises(NotFound, match=message):
        service.resolve(target)


def test_several_models_of_a_task_have_no_default(tmp_path: Path) -> None:
    for name in ("one", "two"):
        publish(tmp_path / name)
    with loaded(tmp_path) as service:
        with pytest.raises(NotFound, match="one, two"):
            service.resolve(Target("sentiment"))
        assert wait(lambda: service.predict(Target("sentiment", model="two"), item())).model.name == "two"


def test_version_needs_a_model(service: Service) -> None:
    with pytest.raises(InputError) as caught:
        service.resolve(Target("sentiment", version="1"))
    assert caught.value.field == "model"


def test_adapter_is_known_by_its_name(tmp_path: Path) -> None:
    publish(tmp_path / "one", adapter={"kind": "wander", "name": "tuned"})
    with loaded(tmp_path) as service:
        assert service.resolve(Target("sentiment", adapter="tuned")).adapter == "tuned"


def test_answer(service: Service) -> None:
    answer = wait(lambda: service.predict(Target("sentiment"), item()))
    expected = Linear("sentiment")(random_rows(1))["score"].item()
    assert answer.content["score"] == pytest.approx(expected, abs=1e-5)
    said = answer.to_json()
    assert {name: said[name] for name in ("model", "version", "adapter")} == {
        "model": "mosi",
        "version": "1",
        "adapter": "linear",
    }
    assert set(said["timing"]) == {"queue", "preprocess", "inference", "postprocess"}
    assert all(isinstance(value, float) and value >= 0 for value in said["timing"].values())


def test_bad_item_costs_no_other_its_answer(service: Service) -> None:
    many: list[Any] = items(5)
    del many[2]["audio"]
    many[4]["text"] = [["no number"] * 4]
    answers = wait(lambda: service.predict_many(Target("sentiment"), many))
    scores = Linear("sentiment")(random_rows(5))["score"][:, 0]
    for index in (0, 1, 3):
        answer = answers[index]
        assert isinstance(answer, Answer)
        assert answer.content["score"] == pytest.approx(scores[index], abs=1e-5)
    for index, field in ((2, "items[2].audio"), (4, "items[4].text")):
        error = answers[index]
        assert isinstance(error, InputError)
        assert error.field == field


def test_too_many_items(service: Service) -> None:
    assert len(wait(lambda: service.predict_many(Target("sentiment"), items(5)))) == 5
    with pytest.raises(TooLarge, match="6 items are more than the 5") as caught:
        wait(lambda: service.predict_many(Target("sentiment"), items(6)))
    assert caught.value.field == "items"


def test_nothing_is_answered_before_loading_or_after_closing(models: Path) -> None:
    settings = Settings(models=models)
    metrics = Metrics()
    service = Service(Repository(settings, metrics), settings, metrics)
    with pytest.raises(NotReady):
        service.resolve(Target("sentiment"))
    with pytest.raises(NotReady):
        service.resolve(Target("sentiment", model="mosi"))
    service.repository.load()
    assert service.repository.ready
    service.close()
    assert not service.repository.ready
    with pytest.raises(NotReady):
        service.resolve(Target("sentiment"))


def test_metrics_are_counted(models: Path) -> None:
    labels = {"model": "mosi", "version": "1", "adapter": "linear"}
    with loaded(models) as service:
        wait(lambda: service.predict_many(Target("sentiment"), [*items(3), {"text": []}]))
        for stage in ("queue", "preprocess", "inference", "postprocess", "request"):
            assert sample(service, "wander_stage_seconds_count", {**labels, "engine": "ort", "stage": stage}) == 3
        graph = {**labels, "graph": "model"}
        assert sample(service, "wander_batch_rows_sum", {**graph, "engine": "ort"}) == 3
        assert sample(service, "wander_rejections_total", {"model": "mosi", "reason": "InputError"}) == 1
        assert sample(service, "wander_queue_rows", graph) == 0


def test_deadline_of_the_server_holds_for_requests_that_name_none(models: Path) -> None:
    with loaded(models, engine="fake", instances=1, timeout_ms=20) as service:
        session = service.repository.get("mosi").queues["model"].sessions[0]
        assert isinstance(session, FakeSession)
        session.gate.clear()
        for deadline in (None, time.monotonic() + 3600):
            with pytest.raises(DeadlineExceeded):
                wait(lambda deadline=deadline: service.predict(Target("sentiment"), item(), deadline))
        session.gate.set()


@pytest.mark.parametrize("task", ["sentiment", "emotion"])
def test_answer_that_is_not_finite_is_an_error_of_its_item_alone(service: Service, task: str) -> None:
    """Each number of the item is finite, but the model multiplies and adds them."""
    weights = Linear(task).weights[:, 0]
    huge: dict[str, Any] = {}
    for name, part in zip(("text", "audio", "vision"), (weights[:12], weights[12:18], weights[18:]), strict=True):
        length = {"text": 3, "audio": 2, "vision": 4}[name]
        huge[name] = [[3e38 if weight > 0 else -3e38 for weight in row] for row in part.reshape(length, -1)]
    answers: list[Answer | ServiceError] = wait(lambda: service.predict_many(Target(task), [item(), huge, item()]))
    assert isinstance(answers[1], InputError)
    assert isinstance(answers[0], Answer)
    assert isinstance(answers[2], Answer)


class Slow:
    """An operation that reads files until it is let go on."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.gate, self.read = inner, threading.Event(), 0

    def preprocess(self, given: Any) -> Any:
        given = dict(given)
        if given.pop("file", None) is not None:
            self.read += 1
            assert self.gate.wait(20)
        return self.inner.preprocess(given)

    def postprocess(self, given: Any, outputs: Any) -> Any:
        return self.inner.postprocess(given, outputs)


@pytest.fixture
def slow(service: Service, monkeypatch: pytest.MonkeyPatch) -> Slow:
    task = service.resolve(Target("sentiment")).task
    operation = Slow(task.operation(""))
    monkeypatch.setattr(task, "slow", ("file",), raising=False)
    monkeypatch.setattr(task, "operation", lambda name: operation)
    return operation


def test_files_that_take_long_hold_up_nobody_else(service: Service, slow: Slow) -> None:
    async def ask() -> None:
        files = [asyncio.create_task(service.predict(Target("sentiment"), {**item(), "file": b"x"})) for _ in range(4)]
        await asyncio.wait_for(service.predict(Target("sentiment"), item()), 10)
        assert slow.read <= 1
        slow.gate.set()
        assert all(isinstance(answer, Answer) for answer in await asyncio.gather(*files))

    asyncio.run(ask())
    assert slow.read == 4


def test_a_file_whose_turn_comes_too_late_is_not_read(service: Service, slow: Slow) -> None:
    async def ask() -> None:
        first = asyncio.create_task(service.predict(Target("sentiment"), {**item(), "file": b"x"}))
        soon = time.monotonic() + 0.05
        late = asyncio.create_task(service.predict(Target("sentiment"), {**item(), "file": b"x"}, soon))
        await asyncio.sleep(0.2)
        slow.gate.set()
        await first
        with pytest.raises(DeadlineExceeded, match="other files"):
            await late

    asyncio.run(ask())
    assert slow.read == 1


def test_only_so_many_files_wait(service: Service, slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing, "MAX_SLOW", 2)

    async def ask() -> None:
        files = [asyncio.create_task(service.predict(Target("sentiment"), {**item(), "file": b"x"})) for _ in range(2)]
        await asyncio.sleep(0.05)
        with pytest.raises(Overloaded):
            await service.predict(Target("sentiment"), {**item(), "file": b"x"})
        slow.gate.set()
        await asyncio.gather(*files)

    asyncio.run(ask())
