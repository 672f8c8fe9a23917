"""What every engine offers: it opens a graph file, and the session runs batches of named arrays.

Knows neither tasks nor queues. A session may be called from several threads at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from numpy.typing import NDArray

from wander.errors import EngineError, InputError
from wander.manifest import Manifest, Precision
from wander.signature import Arrays, Signature


@dataclass(frozen=True)
class EngineOptions:
    """Attributes:

    threads: threads for one batch; 0 leaves the choice to the engine.
    precision: the arithmetic that the graph was made and checked for. An engine that would compute fp32 in anything
        narrower has to be kept from it.
    max_batch_size: the largest batch that will be run.
    max_length: the longest that a free dimension other than the batch will be.
    """

    threads: int = 0
    precision: Precision = "fp32"
    max_batch_size: int = 32
    max_length: int = 512

    @classmethod
    def of(cls, manifest: Manifest, graph: str, threads: int = 0) -> Self:
        """What a bundle says of one of its graphs."""
        return cls(threads, manifest.precision, manifest.graphs[graph].max_batch_size)


class Session(ABC):
    """An open graph. `computes` is false for a session that stands in for an engine and runs no graph."""

    computes: ClassVar[bool] = True

    def __init__(self, signature: Signature) -> None:
        self.signature = signature

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Inputs (rows, ..) to outputs (rows, ..), by the names of the signature.

        Raises InputError, naming the tensor, for inputs that do not fit the signature, and EngineError if the engine
        fails, or answers with something that does not fit it.
        """
        rows = self.signature.check(inputs)
        outputs = self._run(inputs)
        for spec in self.signature.outputs:
            try:
                spec.check(outputs[spec.name])
            except InputError as error:
                raise EngineError(f"the graph answered with what its signature does not say: {error}") from error
            if len(outputs[spec.name]) != rows:
                raise EngineError(f"{spec.name} came back with {len(outputs[spec.name])} rows for {rows}")
        return outputs

    @abstractmethod
    def _run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Runs inputs that fit the signature. Raises EngineError."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """What really runs the graph: provider, version, threads, as the engine itself reports them."""

    @abstractmethod
    def close(self) -> None:
        """Frees the graph. Safe to call twice; a run after it raises EngineError."""


class Engine(ABC):
    """Opens graphs. `electable` is false for one that `auto` must not choose."""

    electable: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def unavailable(cls) -> str | None:
        """Why this engine cannot run here, with the line that installs what is missing; None if it can."""

    @classmethod
    @abstractmethod
    def open(cls, graph: Path, signature: Signature, options: EngineOptions) -> Session:
        """Raises MissingDependency if the engine cannot run here, BundleError for a graph that it cannot read."""
