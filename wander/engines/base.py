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
from wander.signature import Arrays, Signature


@dataclass(frozen=True)
class EngineOptions:
    """Attributes:

    threads: threads for one batch; 0 leaves the choice to the engine.
    """

    threads: int = 0


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
    """Opens graphs."""

    @classmethod
    @abstractmethod
    def unavailable(cls) -> str | None:
        """Why this engine cannot run here, with the line that installs what is missing; None if it can."""

    @classmethod
    @abstractmethod
    def open(cls, graph: Path, signature: Signature, options: EngineOptions) -> Session:
        """Raises MissingDependency if the engine cannot run here, BundleError for a graph that it cannot read."""
