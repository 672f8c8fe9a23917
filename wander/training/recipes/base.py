"""What every recipe offers: a folder of data in, a host with its description out. Writes nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from wander import __version__
from wander.backbones import Host
from wander.checkpoints.folder import Description
from wander.errors import ConfigError
from wander.manifest import first_problem
from wander.tasks.base import Item
from wander.training.loop import Schedule

C = TypeVar("C", bound=BaseModel)

Notify = Callable[[str, int, int, float], None]
"""Is told the stage, the epoch (from 1), the most epochs there will be, and the validation loss."""


class RecipeSettings(BaseModel):
    """What a recipe can be told. The defaults are the recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Trained:
    """What a recipe gives: all that `wander.checkpoints.folder.save` wants, and an item to try it with.

    Attributes:
        host: in eval mode.
        head: sizes of the head, as the host's `Head` takes them.
        about: its provenance holds the metrics on the validation split under `valid`.
        backbone_id: a name for the frozen part.
        example: an item of the task, drawn at random like the training data; no item of the data set.
        assets: files that the preprocessing needs, by name.
    """

    host: Host
    head: dict[str, Any]
    about: Description
    backbone_id: str
    example: Item
    assets: Mapping[str, bytes] = field(default_factory=dict)


class Recipe(ABC):
    """How the adapter of one task is trained.

    Class attributes:
        summary: one line for people.
        Settings: the options, with their defaults.
    """

    summary: ClassVar[str]
    Settings: ClassVar[type[RecipeSettings]]

    @abstractmethod
    def train(
        self,
        folder: Path,
        settings: RecipeSettings,
        *,
        seed: int = 0,
        head_only: bool = False,
        notify: Notify = lambda stage, epoch, epochs, loss: None,
    ) -> Trained:
        """Trains on the training split and selects on the validation split; the test split is never opened.

        Equal arguments give equal weights on one machine.

        Args:
            folder: a data set, laid out like one of `wander.training.datasets`.
            head_only: the baseline: no adapter, only a head over the same frozen backbone.

        Raises UsageError if the folder is no data set for this task.
        """


def provenance(
    recipe: str, settings: RecipeSettings, seed: int, *, trained: str, data: str, selection: str, **more: object
) -> dict[str, Any]:
    """What every trained checkpoint tells of how it was made.

    Args:
        trained: which part of the host.
        data: what it was trained on, and under which terms.
        selection: by what, on the validation split, its weights were chosen.
        more: what the recipe reports beside.
    """
    return {
        "weights": "trained",
        "recipe": recipe,
        "trained": trained,
        "data": data,
        "seed": seed,
        "settings": settings.model_dump(mode="json"),
        "versions": {"wander": __version__, "torch": torch.__version__, "numpy": np.__version__},
        "selection": selection,
        **more,
    }


def checked(kind: type[C], **sizes: object) -> C:
    """Sizes that came from settings. Raises ConfigError that names the one that cannot be."""
    try:
        return kind.model_validate(sizes)
    except ValidationError as error:
        raise ConfigError(f"these settings do not fit together: {first_problem(error)}") from error


def told(notify: Notify, stage: str, schedule: Schedule) -> Callable[[int, float], None]:
    """What `fit` calls after every epoch."""
    return lambda epoch, loss: notify(stage, epoch, schedule.epochs, loss)
