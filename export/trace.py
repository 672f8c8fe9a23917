"""A tower of a host to an ONNX graph, with the names and axes of its signature. The same tower gives the same bytes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import torch

from wander import __version__
from wander.backbones import Host
from wander.backbones._attention import Form, attention_form
from wander.bundle import DATA_SUFFIX
from wander.errors import ConfigError

OPSETS: dict[Form, int] = {"products": 20, "operator": 23}
"""By the form of attention. The lower one is read by more programs."""
INLINE_BYTES = 64 << 20
"""Weights beyond this go to a file of their own beside the graph, which is written without a copy of them. In the graph
they would pass through protobuf, where they are in memory several times over, and which ends at 2 GiB."""


def trace(host: Host, name: str, output: str, path: Path, form: Form = "products") -> None:
    """Writes graph `name` of the host to `path`: batch dynamic, constants folded, nothing that differs between runs.

    The weights are written straight from the host's memory, without a copy. `form`: of attention.
    """
    tower = host.graphs(output)[name]
    signature = tower.signature
    example = host.random_inputs(name, 2, np.random.default_rng(0))
    free = {dim: torch.export.Dim(dim) for spec in signature.inputs for dim in spec.dims if isinstance(dim, str)}
    shapes = tuple(
        {axis: free[dim] for axis, dim in enumerate(spec.dims) if isinstance(dim, str)} for spec in signature.inputs
    )
    with _quiet(), attention_form(form):
        program = torch.onnx.export(
            tower.module,
            tuple(torch.from_numpy(example[spec.name]) for spec in signature.inputs),
            dynamo=True,
            opset_version=OPSETS[form],
            input_names=[spec.name for spec in signature.inputs],
            output_names=[spec.name for spec in signature.outputs],
            dynamic_shapes=(shapes,),
            external_data=False,
            optimize=True,
            verbose=False,
        )
    if program is None:
        raise ConfigError(f"torch could not export tower {name}")
    model = clean(program.model)
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    onnx_ir.save(model, path, external_data=path.name + DATA_SUFFIX if weights > INLINE_BYTES else None)
    for value in model.graph.initializers.values():
        value.const_value = None  # the exporter's rewrite rules refer for good to the graph that they saw last
    onnx.checker.check_model(path)


def clean(model: onnx_ir.Model) -> onnx_ir.Model:
    """Drops what the exporter notes for its own debugging (source paths, fx nodes, inferred shapes), in place."""
    model.producer_name, model.producer_version = "wander", __version__
    model.doc_string = model.graph.doc_string = None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    ends = {*model.graph.inputs, *model.graph.outputs}
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for number, node in enumerate(model.graph):
        node.name, node.doc_string = f"{node.op_type}_{number}", None
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
            if value not in ends:
                value.type = value.shape = None
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of its own deprecations and of packages not needed here; its failures are exceptions."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
