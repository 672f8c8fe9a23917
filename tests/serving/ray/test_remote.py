"""A call of a replica, when replicas end, are silent, or say no. Ray itself is stood in for by its own errors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of Ray's own, about itself
    pytest.importorskip("ray.serve", reason="needs Ray, which is large: make test-ray")

from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError, RayTaskError
from ray.serve.exceptions import RayServeException

from serving.batching import Result
from serving.ray import remote
from serving.ray.remote import DEATHS, RemoteSession, Usual
from wander.errors import EngineError, InputError, NotReady, Overloaded
from wander.signature import Signature, TensorSpec

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", dims=("batch", 1)),),
    outputs=(TensorSpec(name="y", dtype="float32", dims=("batch", 1)),),
)
ROWS = {"x": np.ones((2, 1), np.float32)}
ANSWER = Result({"y": np.full((2, 1), 7, np.float32)}, 0.0, 0.0)


class Replicas:
    """Answers in turn; an exception is raised, a function decides by the patience of the caller."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked = self.cancelled = self.lost = 0
        self.infer = SimpleNamespace(remote=self._remote)

    def _remote(self, graph: str, inputs: Any) -> Any:
        self.asked += 1
        answer = self.answers.pop(0)

        def result(timeout_s: float) -> Any:
            said = answer(timeout_s) if isinstance(answer, Callable) else answer  # type: ignore[arg-type]
            if isinstance(said, Exception) and not isinstance(said, remote.ServiceError):
                raise said
            return said

        return SimpleNamespace(result=result, cancel=self._cancel)

    def _cancel(self) -> None:
        self.cancelled += 1

    def _lose(self) -> None:
        self.lost += 1

    def session(self, patience: float = 60.0, usual: Usual | None = None) -> RemoteSession:
        return RemoteSession(self, "graph", SIGNATURE, patience, usual or Usual(), self._lose)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSE_S", 0.0)


def died() -> ActorDiedError:
    return ActorDiedError()


@pytest.mark.parametrize(
    "error",
    [died(), ActorUnavailableError("gone", None), ObjectLostError("0" * 56, None, ""), RayServeException("draining")],
    ids=lambda error: type(error).__name__,
)
def test_what_was_lost_is_asked_of_another(error: Exception) -> None:
    replicas = Replicas(error, ANSWER)
    np.testing.assert_array_equal(replicas.session().run(ROWS)["y"], ANSWER.outputs["y"])
    assert (replicas.asked, replicas.lost) == (2, 1)


def test_batch_over_which_replicas_die_ends_no_more_of_them() -> None:
    replicas = Replicas(*[died()] * DEATHS, ANSWER)
    with pytest.raises(NotReady, match="in turn ended") as caught:
        replicas.session().run(ROWS)
    assert replicas.asked == DEATHS
    assert caught.value.retry_after > 0


@pytest.mark.parametrize("error", [InputError("too long", "x"), Overloaded("full", 5), NotReady("closing")])
def test_errors_of_a_service_are_themselves(error: Exception) -> None:
    replicas = Replicas(error)
    with pytest.raises(type(error)) as caught:
        replicas.session().run(ROWS)
    assert caught.value is error
    assert (replicas.asked, replicas.lost) == (1, 0)


def test_bug_in_a_replica_is_an_engine_error() -> None:
    replicas = Replicas(RayTaskError("infer", "traceback", ZeroDivisionError("a bug")))
    with pytest.raises(EngineError, match="ZeroDivisionError"):
        replicas.session().run(ROWS)
    assert replicas.asked == 1


def test_silent_replica_is_given_up_for_another() -> None:
    """After far longer than such calls take; before any is known, all the time there is."""
    waits: list[float] = []

    def silent(seconds: float) -> Exception:
        waits.append(seconds)
        return TimeoutError()

    usual = Usual(0.5)
    replicas = Replicas(silent, ANSWER)
    replicas.session(usual=usual).run(ROWS)
    assert (replicas.asked, replicas.cancelled, replicas.lost) == (2, 1, 1)
    assert waits == [pytest.approx(remote.SILENCE * 0.5)]
    assert usual.seconds < 0.5  # the answer that came was faster; the silence taught nothing

    Replicas(silent, ANSWER).session(usual=Usual()).run(ROWS)
    assert waits[1] == pytest.approx(60, abs=1)
    Replicas(silent, ANSWER).session(usual=Usual(0.001)).run(ROWS)
    assert waits[2] == remote.SILENCE_S


def test_no_replica_in_time() -> None:
    replicas = Replicas(*[ActorUnavailableError("gone", None)] * 1_000_000)
    with pytest.raises(NotReady, match="no replica"):
        replicas.session(patience=0.05).run(ROWS)
    assert replicas.asked == replicas.lost > 1


def test_closed_session() -> None:
    session = Replicas(ANSWER).session()
    session.close()
    session.close()
    with pytest.raises(EngineError, match="closed"):
        session.run(ROWS)
