"""The manifest: everything a server must know of a bundle, beside its graphs. Reads and writes JSON, nothing else."""

from __future__ import annotations

import json
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wander.errors import BundleError
from wander.signature import Signature

Precision = Literal["fp32", "fp16", "bf16", "int8"]

MAIN = "model"
"""Name of the graph that is the whole model, where it is not made of towers."""
EXPLAIN = "explain"
"""Name of the graph that takes what `model` takes, and says beside its answer what brought it about."""
RESIDUAL, CONTRIBUTIONS = "residual.", "contributions."
"""Prefixes of what it gives beside its answer, before the name of that, and before the name of each input."""


class Graph(BaseModel):
    """One graph of a bundle: a whole model, or one tower of it.

    `max_batch_size` is the largest batch the parity gate has checked, and the largest the server will form.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    signature: Signature
    max_batch_size: int = Field(ge=1)


class BackboneRef(BaseModel):
    """Which frozen backbone the graphs were built on. `sha256` is that of its weights file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    id: str
    sha256: str


class Manifest(BaseModel):
    """`manifest.json`. `files` maps the path of every other file of the version folder to its sha256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    task: str
    graphs: dict[str, Graph] = Field(min_length=1)
    labels: tuple[str, ...] = ()
    preprocessing: dict[str, Any] = Field(default_factory=dict)
    adapter: dict[str, Any]
    backbone: BackboneRef
    precision: Precision = "fp32"
    folds: tuple[str, ...] = ()
    producer: dict[str, str] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)

    @property
    def answering(self) -> dict[str, Graph]:
        """The graphs that every item may ask: all but the one that explains."""
        return {name: graph for name, graph in self.graphs.items() if name != EXPLAIN}

    @property
    def main(self) -> str | None:
        """The graph that is the model; None for one that is made of towers."""
        answering = list(self.answering)
        return answering[0] if len(answering) == 1 else None

    @property
    def adapter_name(self) -> str:
        """Name of the adapter that is in the graphs: its own, else its kind."""
        return str(self.adapter.get("name") or self.adapter["kind"])

    def to_json(self) -> str:
        """The text of `manifest.json`: keys in a fixed order, so that equal manifests are equal bytes."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises BundleError, naming the field, for text that is not a manifest of this schema version."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise BundleError(f"manifest.json: {first_problem(error)}") from error


def first_problem(error: ValidationError) -> str:
    """The first complaint of a pydantic error as `field.path: what is wrong`."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
