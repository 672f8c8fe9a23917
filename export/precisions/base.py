"""What every narrowing offers: it writes a graph anew in another arithmetic, but for the parts that are to stay.

Knows neither engines nor gates: what may be narrowed is decided elsewhere, by measured error.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import onnx

from wander.manifest import Precision
from wander.signature import Arrays


class Narrowing(ABC):
    """Bound to one graph.

    Class attributes:
        precision: what the manifest says of such a graph.
        engine: the one that is asked by default whether it holds.
        calibrates: whether it needs real rows; others ignore them.
    """

    precision: ClassVar[Precision]
    engine: ClassVar[str] = "ort"
    calibrates: ClassVar[bool] = False

    def __init__(self, graph: Path, rows: Arrays, scratch: Path) -> None:
        """`rows` are inputs (N, ..) to calibrate with; `scratch` is a folder for what is made once for all writings."""
        self.graph = graph
        self.rows = rows
        self.scratch = scratch

    @abstractmethod
    def units(self) -> Mapping[str, Sequence[str]]:
        """What can stay in fp32 on its own: a name for people -> the nodes of the graph."""

    @abstractmethod
    def write(self, target: Path, kept: Collection[str]) -> None:
        """The narrowed graph, with these nodes left as they are; weights beside it, if they stand apart in the source.

        The same graph and rows give the same bytes.
        """


def weighted(model: onnx.ModelProto, kinds: Collection[str]) -> list[str]:
    """Nodes of these kinds whose second input is a constant of the graph, in order."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in kinds and len(node.input) > 1 and node.input[1] in constants
    ]
