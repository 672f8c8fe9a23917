"""A tower of a host to an ONNX graph, with the names and axes of its signature. The same tower gives the same bytes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx
import torch

from wander import __version__
from wander.backbones import Host
from wander.errors import ConfigError

OPSET = 20


def trace(host: Host, name: str, output: str) -> onnx.ModelProto:
    """The graph of tower `name`, batch dynamic, constants folded, without anything that differs from run to run."""
    tower = host.towers(output)[name]
    signature = tower.signature
    example = host.random_inputs(name, 2, np.random.default_rng(0))
    free = {dim: torch.export.Dim(dim) for spec in signature.inputs for dim in spec.dims if isinstance(dim, str)}
    shapes = tuple(
        {axis: free[dim] for axis, dim in enumerate(spec.dims) if isinstance(dim, str)} for spec in signature.inputs
    )
    with _quiet():
        program = torch.onnx.export(
            tower.module,
            tuple(torch.from_numpy(example[spec.name]) for spec in signature.inputs),
            dynamo=True,
            opset_version=OPSET,
            input_names=[spec.name for spec in signature.inputs],
            output_names=[spec.name for spec in signature.outputs],
            dynamic_shapes=(shapes,),
            external_data=False,
            optimize=True,
            verbose=False,
        )
    if program is None:
        raise ConfigError(f"torch could not export tower {name}")
    return clean(program.model_proto)


def clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drops what the exporter notes for its own debugging (source paths, fx nodes, inferred shapes), in place."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("doc_string")
        if hasattr(part, "metadata_props"):
            part.ClearField("metadata_props")
    graph.ClearField("value_info")
    model.producer_name, model.producer_version = "wander", __version__
    for number, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{number}"
    onnx.checker.check_model(model)
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
