"""One suite for every task: a new file in `wander/tasks` is tested here without a change.

The manifest that a task needs is guessed: sequences in, and one of a few usual outputs. A task that takes none of these
guesses is skipped here, and its own tests have to say what this suite would.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.serving.building import SIZES, random_rows
from tests.serving.schema import problems
from wander.errors import BundleError, InputError
from wander.manifest import BackboneRef, Graph, Manifest
from wander.signature import Signature, TensorSpec
from wander.tasks import Operation, Task, tasks

GUESSES: list[tuple[tuple[int, ...], tuple[str, ...]]] = [((1,), ()), ((3,), ("a", "b", "c")), ((2, 5), ())]
"""Dimensions of an item's output, and labels."""

Row = dict[str, NDArray[Any]]


def manifest(name: str, dims: tuple[int, ...], labels: tuple[str, ...]) -> Manifest:
    signature = Signature(
        inputs=tuple(TensorSpec(name=n, dtype="float32", dims=("batch", *size)) for n, size in SIZES.items()),
        outputs=(TensorSpec(name=tasks.get(name).output or "output", dtype="float32", dims=("batch", *dims)),),
    )
    return Manifest(
        task=name,
        graphs={"model": Graph(file="model.onnx", signature=signature, max_batch_size=4)},
        labels=labels,
        adapter={"kind": "none"},
        backbone=BackboneRef(kind="none", id="tests", sha256=""),
    )


def bound(name: str) -> Task:
    """The task with the first manifest that it accepts."""
    for dims, labels in GUESSES:
        try:
            return tasks.get(name)(manifest(name, dims, labels), Path("nowhere"))
        except BundleError:
            continue
    pytest.skip(f"none of the manifests of this suite fits the task {name}")


def item() -> Row:
    return {name: value[0] for name, value in random_rows(1).items()}


def random_outputs(task: Task, rows: int = 1, seed: int = 0) -> Row:
    random = np.random.default_rng(seed)
    (spec,) = task.manifest.graphs["model"].signature.outputs
    sizes = [size for size in spec.item_dims if isinstance(size, int)]
    return {spec.name: random.normal(0, 2, (rows, *sizes)).astype(np.float32)}


def first(outputs: Row) -> dict[str, Row]:
    """The first row of a batch, as `postprocess` takes it."""
    return {"model": {name: value[0] for name, value in outputs.items()}}


def routes() -> Iterator[Any]:
    for name, task in tasks:
        for operation in task.operations:
            yield pytest.param((name, operation), id=f"{name}/{operation}".rstrip("/"))


@pytest.fixture(params=tasks.names())
def task(request: pytest.FixtureRequest) -> Task:
    return bound(request.param)


@pytest.fixture(params=routes())
def asked(request: pytest.FixtureRequest) -> tuple[Task, Operation]:
    """A task and one of its operations."""
    name, operation = request.param
    task = bound(name)
    return task, task.operation(operation)


@pytest.mark.parametrize("name", tasks.names())
def test_it_is_described(name: str) -> None:
    task = tasks.get(name)
    assert task.operations
    for line in (task.summary, *task.operations.values()):
        assert line
        assert "\n" not in line
    assert all(re.fullmatch(r"[a-z0-9]*(-[a-z0-9]+)*", operation) for operation in task.operations)


def test_the_example_is_an_item_of_the_first_operation(task: Task) -> None:
    operation = task.operation(next(iter(task.operations)))
    example = task.example({"model": item()})
    assert json.loads(json.dumps(example, allow_nan=False)) == example
    assert problems(operation.schema(), example) == []
    for graph, arrays in operation.preprocess(example).items():
        signature = task.manifest.graphs[graph].signature
        assert signature.check({name: value[None] for name, value in arrays.items()}) == 1


def test_preprocessing_fits_the_signature_and_says_the_same_twice(asked: tuple[Task, Operation]) -> None:
    task, operation = asked
    once, again = operation.preprocess(item()), operation.preprocess(item())
    assert set(once) <= set(task.manifest.graphs)
    for graph, arrays in once.items():
        assert task.manifest.graphs[graph].signature.check({n: v[None] for n, v in arrays.items()}) == 1
        for name, value in arrays.items():
            np.testing.assert_array_equal(value, again[graph][name])


def test_the_schema_is_a_closed_object(asked: tuple[Task, Operation]) -> None:
    task, operation = asked
    schema = operation.schema()
    json.dumps(schema, allow_nan=False)
    assert schema["type"] == "object"
    example = task.example({"model": item()})
    assert problems(schema, {**example, "no_such_field": 1})
    for name in schema.get("required", ()):
        assert problems(schema, {n: v for n, v in example.items() if n != name})


def test_an_unknown_field_is_named(asked: tuple[Task, Operation]) -> None:
    _, operation = asked
    with pytest.raises(InputError) as caught:
        operation.preprocess({**item(), "no_such_field": 1})
    assert caught.value.field == "no_such_field"


def test_a_required_field_that_is_missing_is_named(asked: tuple[Task, Operation]) -> None:
    _, operation = asked
    for name in operation.schema().get("required", ()):
        with pytest.raises(InputError) as caught:
            operation.preprocess({n: v for n, v in item().items() if n != name})
        assert caught.value.field == name


@pytest.mark.parametrize("seed", range(5))
def test_answers_are_json(asked: tuple[Task, Operation], seed: int) -> None:
    task, operation = asked
    answer = operation.postprocess(item(), first(random_outputs(task, seed=seed)))
    assert answer
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30, 3e38])
def test_answers_to_extreme_outputs_are_json(asked: tuple[Task, Operation], size: float) -> None:
    task, operation = asked
    extreme = {name: np.sign(value) * np.float32(size) for name, value in random_outputs(task).items()}
    json.dumps(operation.postprocess(item(), first(extreme)), allow_nan=False)


def test_decisions_have_a_margin_each(task: Task) -> None:
    decisions, margins = task.decisions(random_outputs(task, rows=6))
    assert decisions.shape == margins.shape
    assert decisions.shape[0] == 6
    assert decisions.ndim == 2
    assert np.issubdtype(decisions.dtype, np.integer)
    assert (margins >= 0).all()


@pytest.mark.parametrize("name", tasks.names())
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_outputs_that_move_by_less_than_the_margin_keep_the_decision(name: str, data: st.DataObject) -> None:
    task = bound(name)
    (output,) = random_outputs(task)
    shape = random_outputs(task)[output].shape
    size = int(np.prod(shape))
    value = np.reshape(data.draw(st.lists(st.floats(-5, 5, width=32), min_size=size, max_size=size)), shape)
    moves = np.reshape(data.draw(st.lists(st.floats(-0.999, 0.999), min_size=size, max_size=size)), shape)
    decisions, margins = task.decisions({output: value})
    for column in np.flatnonzero(margins[0] > 1e-9):
        moved, _ = task.decisions({output: value + moves * margins[0, column]})
        assert moved[0, column] == decisions[0, column]


def test_metrics_are_numbers(task: Task) -> None:
    labels = np.tile([0, 1, 2, 1], 5)
    for name, value in task.metrics(random_outputs(task, rows=20), labels).items():
        assert isinstance(name, str)
        assert isinstance(value, float)
        assert np.isfinite(value)
