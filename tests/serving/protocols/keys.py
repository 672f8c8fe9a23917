"""A key that may do everything, and how tritonclient sends it."""

from __future__ import annotations

import json
from typing import Any

from tritonclient._plugin import InferenceServerClientPlugin

KEY = "wander_all_" + "k" * 40
WRITER = "wander_writer_" + "w" * 40
"""May write indexes, and nothing else."""
SLOW = "wander_slow_" + "s" * 40
"""May infer twice."""
KEYS = json.dumps(
    [
        {"name": "all", "key": KEY, "roles": ["infer", "admin"]},
        {"name": "writer", "key": WRITER, "roles": ["index-write"]},
        {"name": "slow", "key": SLOW, "roles": ["infer"], "rate": 0.001, "burst": 2},
    ]
)


def bearer(key: str = KEY) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


class Bearer(InferenceServerClientPlugin):
    """Sends the key with every request."""

    def __call__(self, request: Any) -> None:
        request.headers.update(bearer())
