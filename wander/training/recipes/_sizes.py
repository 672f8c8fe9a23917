"""Sizes of a model that come from settings."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from wander.errors import ConfigError
from wander.manifest import first_problem

C = TypeVar("C", bound=BaseModel)


def checked(kind: type[C], **sizes: object) -> C:
    """Raises ConfigError that names the one that cannot be."""
    try:
        return kind.model_validate(sizes)
    except ValidationError as error:
        raise ConfigError(f"these settings do not fit together: {first_problem(error)}") from error
