"""What every recipe offers: a folder of data in, a host with its description out. Writes nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from wander.backbones import Host
from wander.checkpoints.folder import Description
from wander.tasks.base import Item

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
        assets: files that its preprocessing names, with their content.
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
