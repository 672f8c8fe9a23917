"""What both forms of int8 share: ONNX Runtime's quantisation, kept quiet, and the nodes that it may quantise."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

import onnx

from export.precisions.base import Narrowing, weighted
from wander import __version__
from wander.bundle import DATA_SUFFIX
from wander.manifest import Precision


class Quantization(Narrowing):
    """A unit is one product with constant weights."""

    precision: ClassVar[Precision] = "int8"
    kinds: ClassVar[Sequence[str]]

    def units(self) -> Mapping[str, Sequence[str]]:
        model = onnx.load(self.graph, load_external_data=False)
        return {name: [name] for name in weighted(model, self.kinds)}

    @property
    def apart(self) -> bool:
        """Whether the weights stand beside the graph."""
        return self.graph.with_name(self.graph.name + DATA_SUFFIX).exists()


def sign(model: onnx.ModelProto) -> None:
    """The producer is ours again, in place of the tool's."""
    model.producer_name, model.producer_version = "wander", __version__
    model.ClearField("metadata_props")


@contextmanager
def quiet() -> Iterator[None]:
    """The tools log advice through the root logger and warn of their own doings; their failures are exceptions."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            root.setLevel(level)
