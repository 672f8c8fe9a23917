"""What every front end offers: a raw value in (a sentence, a recording), rows of features out, and what each row is.

A front end is declared in `preprocessing.front_ends` of a manifest, under the field of an item that it reads. Knows no
task, no graph and no HTTP; only the sizes of the inputs that it fills.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from wander.errors import BundleError
from wander.signature import TensorSpec

Label = str | tuple[float, float]
"""What a row was made of: a word, or seconds from and to."""


@dataclass(frozen=True)
class Rows:
    """Features (n, D) float32 of one input, n at least 1 and at most its length, and a label for every row."""

    features: NDArray[np.float32]
    labels: list[Label]


class FrontEndOptions(BaseModel):
    """Declaration of a front end. `kind` is the name of its file in this folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str


class FrontEnd(ABC):
    """A front end bound to the inputs that it fills. Several threads may call it.

    Class attributes:
        Options: its declaration.
        uploads: whether the raw value is a file, given as bytes.
    """

    Options: ClassVar[type[FrontEndOptions]]
    uploads: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, options: Any, field: str, inputs: Mapping[str, TensorSpec], folder: Path) -> None:
        """Binds `options` (an instance of `Options`) to a field of items, among the inputs of a graph.

        Args:
            folder: where the files are that the options name.

        Raises BundleError for a file that is missing or damaged, or an input that does not fit.
        """

    @property
    @abstractmethod
    def inputs(self) -> tuple[str, ...]:
        """The inputs of the graph that it fills; the field is one of them."""

    @abstractmethod
    def reads(self, value: object) -> bool:
        """Whether a value is raw. What is not are features."""

    @abstractmethod
    def __call__(self, raw: Any) -> dict[str, Rows]:
        """The rows of every input for a value that it `reads`. Raises InputError that names the field."""

    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """JSON schema of the raw value; a file is a string in base64."""

    @abstractmethod
    def example(self, features: Mapping[str, NDArray[Any]]) -> str:
        """A raw value as JSON has it, made of the features (ℓ, D) of the inputs where something can be made of them."""


def fitted(inputs: Mapping[str, TensorSpec], name: str, width: int) -> int:
    """ℓ, the length of the input of that name. Raises BundleError if there is none, or if its rows are not `width`."""
    if name not in inputs:
        raise BundleError(f"preprocessing.front_ends fills {name}, which is no input of the graph")
    length, found = inputs[name].item_dims
    if found != width:
        raise BundleError(f"preprocessing.front_ends gives {name} rows of {width} numbers, but the graph takes {found}")
    return int(length)
