"""What every task offers: a task turns one item into tensors for one or more graphs, and their results into an answer.

Knows no HTTP, no engine and no batch of requests: an item is a plain mapping, as it comes from JSON or an .npz file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wander.manifest import Manifest
from wander.signature import Arrays, TensorSpec

Item = Mapping[str, Any]
Calls = dict[str, dict[str, NDArray[Any]]]
"""Graph name -> tensor name -> array of one item, without the batch dimension."""


class Task(ABC):
    """A task bound to one bundle.

    Class attributes:
        summary: one line for people.
        output: name that the single graph of such a bundle gives its result.
    """

    summary: ClassVar[str]
    output: ClassVar[str]

    def __init__(self, manifest: Manifest) -> None:
        """Raises BundleError if the manifest lacks what this task needs."""
        self.manifest = manifest

    @abstractmethod
    def preprocess(self, item: Item) -> Calls:
        """The tensors of one item for every graph it needs. Raises InputError that names the field."""

    @abstractmethod
    def postprocess(self, item: Item, outputs: Mapping[str, Arrays]) -> dict[str, Any]:
        """The answer, of plain JSON values. `outputs`: graph name -> tensor name -> array of one item."""

    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """JSON schema of one item."""

    @abstractmethod
    def example(self, calls: Mapping[str, Arrays]) -> dict[str, Any]:
        """A small item of plain JSON values, made from the tensors of one item (as `preprocess` gives them)."""

    @classmethod
    def decisions(cls, outputs: Arrays) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """What is decided from a batch of outputs, and how clearly.

        Returns decisions (B, k) and their margins (B, k): by how much the outputs would have to change, at least, for
        the decision to change. k is 0 for a task that decides nothing.
        """
        rows = next(iter(outputs.values())).shape[0]
        return np.zeros((rows, 0), np.int64), np.zeros((rows, 0))

    @classmethod
    def metrics(cls, outputs: Arrays, labels: NDArray[Any]) -> dict[str, float]:
        """The papers' metrics of a batch of outputs against labels (B); empty for a task that has none."""
        return {}


def array_schema(spec: TensorSpec) -> dict[str, Any]:
    """JSON schema of nested lists for one item of a tensor."""
    schema: dict[str, Any] = {"type": "integer" if "int" in spec.dtype else "number"}
    for size in reversed(spec.item_dims):
        bounds = {"minItems": size, "maxItems": size} if isinstance(size, int) else {}
        schema = {"type": "array", "items": schema, **bounds}
    return schema
