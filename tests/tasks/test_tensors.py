"""Tensors as they are: which graphs an item means, and exact shapes and types."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wander.errors import InputError
from wander.manifest import BackboneRef, Graph, Manifest
from wander.signature import Signature, TensorSpec
from wander.tasks import tasks
from wander.tasks.base import Operation


def bound(*graphs: str) -> Operation:
    def graph(name: str) -> Graph:
        inputs = (
            TensorSpec(name=f"{name}_ids", dtype="int64", dims=("batch", "tokens")),
            TensorSpec(name=f"{name}_x", dtype="float32", dims=("batch", 2, 1)),
        )
        outputs = (TensorSpec(name=f"{name}_y", dtype="float32", dims=("batch", 2)),)
        return Graph(file=f"{name}.onnx", signature=Signature(inputs=inputs, outputs=outputs), max_batch_size=2)

    manifest = Manifest(
        task="tensors",
        graphs={name: graph(name) for name in graphs},
        adapter={"kind": "none"},
        backbone=BackboneRef(kind="none", id="x", sha256=""),
    )
    return tasks.get("tensors")(manifest, Path("nowhere")).operation("")


GOOD = {"a_ids": [1, 2, 3], "a_x": [[0.5], [1]]}


def test_an_item_means_the_graphs_whose_inputs_it_brings() -> None:
    task = bound("a", "b")
    calls = task.preprocess(GOOD)
    assert set(calls) == {"a"}
    assert calls["a"]["a_ids"].dtype == np.int64
    assert calls["a"]["a_x"].dtype == np.float32
    assert set(task.preprocess({**GOOD, "b_ids": [1], "b_x": [[1], [2]]})) == {"a", "b"}


def test_the_answer_holds_every_output_under_its_name() -> None:
    outputs = {"a": {"a_y": np.array([1, 2], np.float32)}}
    assert bound("a").postprocess(GOOD, outputs) == {"outputs": {"a_y": [1.0, 2.0]}}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"a_x": None}, "a_x"),
        ({"c": [1]}, "c"),
        ({"a_ids": [1.5]}, "a_ids"),
        ({"a_ids": [True]}, "a_ids"),
        ({"a_ids": [[1]]}, "a_ids"),
        ({"a_x": [[1]]}, "a_x"),
        ({"a_x": [[1], ["x"]]}, "a_x"),
        ({"a_x": [[1], [1e300]]}, "a_x"),
    ],
)
def test_a_wrong_tensor_is_named(change: dict[str, object], field: str) -> None:
    with pytest.raises(InputError) as caught:
        bound("a").preprocess({**GOOD, **change})
    assert caught.value.field == field


def test_an_empty_item_is_told_what_is_missing() -> None:
    with pytest.raises(InputError, match="a_ids is missing"):
        bound("a", "b").preprocess({})
