"""`wander ray`. A command of its own, for much of what `serve` can be told means nothing here, and the reverse."""

from __future__ import annotations

import inspect
from contextlib import suppress
from typing import Any

from serving.cli import announce, options, settings_of


def ray(**given: Any) -> None:
    """Serve every bundle in a folder on a Ray cluster: replicas that follow the load and survive the loss of a node."""
    from serving.ray.settings import RaySettings

    settings = settings_of(RaySettings, given).checked()
    from serving.ray.launch import run

    run(settings, announce)


with suppress(ModuleNotFoundError):  # the command itself will say what is to be installed
    from serving.ray.settings import ELSEWHERE, RaySettings

    ray.__signature__ = inspect.Signature(options(RaySettings, without=ELSEWHERE))  # type: ignore[attr-defined]
