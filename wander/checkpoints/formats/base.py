"""What every format offers, and how sizes come together from weights, pickled objects and the user."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from wander.backbones import Host
from wander.checkpoints.folder import Description
from wander.checkpoints.reader import Checkpoint
from wander.errors import CheckpointError


@dataclass(frozen=True)
class Converted:
    """A host with the checkpoint's weights, its head's configuration and what is known of its purpose."""

    host: Host
    head: dict[str, Any]
    about: Description


class Known:
    """Sizes and options by name. What the weights say is a fact; what the user says fills the gaps and must agree.

    Args:
        given: what the user says (`--config`); names that no format asks for are ignored.
        facts: what the checkpoint says.
    """

    def __init__(self, given: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        self._given = given
        self._facts = facts
        for name, fact in facts.items():
            if name in given and _plain(given[name]) != _plain(fact):
                raise CheckpointError(
                    f"{name} is {_plain(fact)} in the checkpoint, but {given[name]} in the configuration"
                )

    def __getitem__(self, name: str) -> Any:
        """Raises CheckpointError that names what is unknown and how to say it."""
        if (value := self.get(name)) is None:
            example = json.dumps({name: "..."})
            raise CheckpointError(f"{name} is not in the checkpoint; say it in a JSON file with --config: {example}")
        return value

    def get(self, name: str, default: Any = None) -> Any:
        """The value, or the default if it is unknown."""
        return self._facts.get(name, self._given.get(name, default))


class Format(ABC):
    """One kind of checkpoint."""

    @classmethod
    @abstractmethod
    def recognises(cls, names: Collection[str]) -> bool:
        """Whether a checkpoint whose tensors have these names is of this kind."""

    @classmethod
    @abstractmethod
    def convert(cls, checkpoint: Checkpoint, tensors: Mapping[str, Tensor], given: Mapping[str, Any]) -> Converted:
        """The host that the checkpoint holds. Raises CheckpointError that names what is unknown or does not fit."""


def count(names: Iterable[str], pattern: str) -> int:
    """How many of `pattern.format(0)`, `pattern.format(1)`, .. are among the names, without a gap."""
    present, number = set(names), 0
    while pattern.format(number) in present:
        number += 1
    return number


def provenance(checkpoint: Checkpoint, given: Mapping[str, Any]) -> dict[str, Any]:
    """Where converted weights come from; what the user says of them under `provenance` is added."""
    return {"converted_from": checkpoint.path.name, "format": checkpoint.format, **dict(given.get("provenance", {}))}


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
