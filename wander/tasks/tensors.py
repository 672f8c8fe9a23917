"""Tensors in, tensors out: for outputs without a meaning of their own, as those of an adapter that stands alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from wander.signature import Arrays
from wander.tasks._sequences import SequenceTask
from wander.tasks.base import Item


class Tensors(SequenceTask):
    """Every output of the graph, as nested lists under its name."""

    summary: ClassVar[str] = "The model's tensors as they are, from feature sequences"
    operations: ClassVar[Mapping[str, str]] = {"": summary}
    output: ClassVar[str] = "tokens"

    def postprocess(self, item: Item, outputs: Mapping[str, Arrays]) -> dict[str, Any]:
        return {"outputs": {name: value.tolist() for name, value in outputs["model"].items()}}


plugin = Tensors
