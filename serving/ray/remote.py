"""A session whose graph is run by whichever replica of a bundle Ray chooses.

Replicas end: their node is lost, they are scaled down. Inference changes nothing, so what one of them did not answer is
asked of another. Knows no HTTP.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from ray.exceptions import ActorDiedError, RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from serving.tickets import Result
from wander.engines import Session
from wander.errors import EngineError, NotReady, ServiceError
from wander.signature import Arrays, Signature

log = logging.getLogger(__name__)

DEATHS = 3
"""Replicas that may die over one batch: it may be the batch that ends them."""
PAUSE_S = 0.1
"""Before another replica is asked, so that those who know of the loss can say so."""
SILENCE_S = 2.0
"""A replica that is silent for so long, and for `SILENCE` times what is usual, is taken for lost."""
SILENCE = 8.0


@dataclass
class Usual:
    """How long a call of one graph usually takes, in seconds; 0 before the first. Shared by its sessions."""

    seconds: float = 0.0

    def observe(self, seconds: float) -> None:
        self.seconds += (seconds - self.seconds) / 8 if self.seconds else seconds

    def patience(self) -> float:
        """Seconds for one try."""
        return max(SILENCE_S, SILENCE * self.seconds) if self.seconds else math.inf


class RemoteSession(Session):
    """One batch in flight; there are as many sessions as may be.

    Args:
        handle: of the deployment.
        patience: seconds for one batch, all tries together.
        usual: what is known of the time that a call takes.
        lost: is told of every try that came to nothing.
    """

    def __init__(
        self,
        handle: DeploymentHandle[Any],
        graph: str,
        signature: Signature,
        patience: float,
        usual: Usual,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(signature)
        self._handle = handle
        self._graph = graph
        self._patience = patience
        self._usual = usual
        self._lost = lost
        self._closed = False

    def _run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Raises NotReady if no replica answers in time, and what a replica answers with."""
        if self._closed:
            raise EngineError("the session is closed")
        answer = self._ask(lambda: self._handle.infer.remote(self._graph, dict(inputs)), self._usual)
        if isinstance(answer, ServiceError):
            raise answer
        assert isinstance(answer, Result)
        return answer.outputs

    def describe(self) -> dict[str, str]:
        return {**self._ask(lambda: self._handle.describe.remote(), Usual()), "on": "ray"}

    def _ask(self, call: Callable[[], Any], usual: Usual) -> Any:
        until, deaths = time.monotonic() + self._patience, 0
        while (left := until - (started := time.monotonic())) > 0:
            response = call()
            try:
                answer = response.result(timeout_s=min(left, usual.patience()))
            except TimeoutError:
                response.cancel()
                self._lost()
                log.warning("%s: a replica is silent, another is asked", self._graph)
            except RayTaskError as error:
                log.exception("%s: a replica raised something that is no error of a service", self._graph)
                raise EngineError(f"{self._graph}: {type(error.cause).__name__} in a replica") from error
            except (RayError, RayServeException) as error:
                self._lost()
                deaths += isinstance(error, ActorDiedError)
                log.warning("%s: a replica was lost (%s), another is asked", self._graph, type(error).__name__)
                if deaths == DEATHS:
                    raise NotReady(f"{deaths} replicas in turn ended before they answered; try again later") from error
                time.sleep(min(PAUSE_S, left))
            else:
                usual.observe(time.monotonic() - started)
                return answer
        raise NotReady("no replica of the model answers; try again later")

    def close(self) -> None:
        self._closed = True
