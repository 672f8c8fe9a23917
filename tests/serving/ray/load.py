"""A load of clients that check every answer."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx
import numpy as np

from tests.serving.building import item, random_rows
from tests.serving.ray.conftest import MODEL, Serving

CONNECTIONS = 8
DEADLINE_S = 5.0
HANG_S = 30.0
"""An answer that takes longer than this has not come."""


@dataclass
class Load:
    """Clients that each ask again as soon as they are answered, until they are stopped."""

    serving: Serving
    answers: list[tuple[float, float, str]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Load:
        self.threads = [threading.Thread(target=self._client, args=(n,)) for n in range(CONNECTIONS)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join()

    def _client(self, number: int) -> None:
        headers = {"x-request-timeout-ms": str(DEADLINE_S * 1000)}
        with httpx.Client(base_url=self.serving.url, timeout=HANG_S, trust_env=False, headers=headers) as client:
            turn = number
            while not self.stopped.is_set():
                began = time.monotonic()
                try:
                    said = self._ask(client, turn)
                except httpx.HTTPError as error:
                    said = type(error).__name__
                self.answers.append((began, time.monotonic() - began, said))
                turn += CONNECTIONS

    def _ask(self, client: httpx.Client, seed: int) -> str:
        """Every other request over each of the protocols, each with inputs of its own."""
        if seed % 16 < 8:
            answer = client.post(f"/v1/sentiment?model={MODEL}", json=item(seed))
        else:
            tensors = [
                {"name": n, "shape": v.shape, "datatype": "FP32", "data": v.ravel().tolist()}
                for n, v in random_rows(1, seed).items()
            ]
            answer = client.post(f"/v2/models/{MODEL}/infer", json={"inputs": tensors})
        if answer.status_code == 200:
            content = answer.json()
            got = content["score"] if "score" in content else content["outputs"][0]["data"][0]
            if not np.isclose(got, self.serving.expected(random_rows(1, seed))[0, 0], rtol=1e-4, atol=1e-5):
                self.wrong.append(f"{seed}: {content}")
        elif answer.status_code in (429, 503):
            return f"{answer.status_code}{'' if 'retry-after' in answer.headers else ' without Retry-After'}"
        return str(answer.status_code)

    def counted(self, since: float = 0.0) -> Counter[str]:
        return Counter(said for began, _, said in self.answers if began >= since)
