"""What every task offers: a task turns one item into tensors for one or more graphs, and their results into an answer.

Knows no HTTP, no engine and no batch of requests: an item is a plain mapping, as it comes from JSON or an .npz file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wander.manifest import Manifest
from wander.signature import Arrays, TensorSpec

Item = Mapping[str, Any]
Calls = dict[str, dict[str, NDArray[Any]]]
"""Graph name -> tensor name -> array of one item, without the batch dimension."""


class Operation(ABC):
    """One thing that can be asked of a model: an item in, an answer out."""

    @abstractmethod
    def preprocess(self, item: Item) -> Calls:
        """The tensors of one item for every graph it needs. Raises InputError that names the field."""

    @abstractmethod
    def postprocess(self, item: Item, outputs: Mapping[str, Arrays]) -> dict[str, Any]:
        """The answer, of plain JSON values. `outputs`: graph name -> tensor name -> array of one item."""

    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """JSON schema of one item, an object."""

    def answer_schema(self) -> dict[str, Any]:
        """JSON schema of the answer to one item, an object, as far as it is told."""
        return {"type": "object"}


class Task(ABC):
    """A task bound to one bundle.

    Class attributes:
        summary: one line for people.
        output: name that the single graph of such a bundle gives its result; unused by hosts of several graphs.
        operations: what can be asked, by name, with one line for people each. The empty name is the task itself:
            `POST /v1/<task>`; others are `POST /v1/<task>/<operation>`.
        measured: the operation that takes the items of data sets, if that is not the first.
        uploads: fields of an item that may be files; in JSON they are base64.
        slow: those of them that take seconds to read.
        options: fields of an item that may stand in the query of a request instead, for all its items.
        explains: whether it has a use for the graph that explains the answers of another.
    """

    summary: ClassVar[str]
    output: ClassVar[str] = ""
    operations: ClassVar[Mapping[str, str]]
    measured: ClassVar[str | None] = None
    uploads: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[tuple[str, ...]] = ()
    explains: ClassVar[bool] = False
    slow: ClassVar[tuple[str, ...]] = ()

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        """Binds to a manifest and the folder in which the files are that its preprocessing names.

        Raises BundleError if something that this task needs is missing or does not fit.
        """
        self.manifest = manifest

    @abstractmethod
    def operation(self, name: str) -> Operation:
        """The operation of that name, one of `operations`."""

    @abstractmethod
    def example(self, calls: Mapping[str, Arrays]) -> dict[str, Any]:
        """A small item of plain JSON values for the first operation.

        `calls` holds the tensors of one sample (as `preprocess` gives them), to be used where an item can be made of
        them.
        """

    def files(self) -> tuple[str, ...]:
        """Fields of an item for this bundle that may be files: `uploads`, unless its manifest says more."""
        return self.uploads

    def raw(self) -> tuple[str, ...]:
        """Fields in place of whose features an item may hold what they are made of, by a front end of the manifest."""
        return ()

    def fits(self, item: Item) -> bool:
        """Whether an item has the form of this model's, where another model of the task may have another; it need not
        be one that `preprocess` accepts."""
        return True

    def divisor(self, answer: Mapping[str, Any]) -> list[float]:
        """Of what `embed` answered. The score of two answers is the product of their vectors, over that of these.

        Empty where it is the product alone; else of one size, and a score is 0 where that product is 0.
        """
        return []

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

    def joint_metrics(self, outputs: Mapping[str, Arrays], labels: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """The papers' metrics of all graphs together, each with its own rows (N_g, ..) and their labels (N_g).

        For a single graph these are its `metrics`. A name with a dot is `<which>.<measure>`.
        """
        if len(outputs) > 1:
            return {}
        (graph,) = outputs
        return self.metrics(outputs[graph], labels[graph])


def array_schema(spec: TensorSpec) -> dict[str, Any]:
    """JSON schema of nested lists for one item of a tensor."""
    schema: dict[str, Any] = {"type": "integer" if "int" in spec.dtype else "number"}
    for size in reversed(spec.item_dims):
        bounds = {"minItems": size, "maxItems": size} if isinstance(size, int) else {}
        schema = {"type": "array", "items": schema, **bounds}
    return schema
