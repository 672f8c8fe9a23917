"""Graphs that hold alone, and have a metric only together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from export.narrowing import Outcome, Search
from export.samples import Inputs
from export.together import hold_together
from tests.export.test_narrowing import MODEL, Costly
from tests.serving.building import random_rows
from wander.manifest import Graph
from wander.tasks.emotion import Emotion


class Left(Costly):
    costs: Mapping[str, float] = {"a": 1e-4, "b": 4e-4}


class Right(Costly):
    costs: Mapping[str, float] = {"c": 2e-4, "d": 40.0}
    """The last does not hold alone, and is kept before anything is asked of both."""


def towers(folder: Path) -> tuple[dict[str, Search], dict[str, Outcome]]:
    searches = {}
    (folder / "scratch").mkdir()
    for kind in (Left, Right):
        name = kind.__name__.lower()
        MODEL.save(folder / f"{name}.onnx")
        graph = Graph(file=f"{name}.onnx", signature=MODEL.signature, max_batch_size=32)
        rows = Inputs(random_rows(64), "made up", None)
        searches[name] = Search(kind, graph, folder / f"{name}.onnx", rows, Emotion, "ort", folder / "scratch")
    return searches, {name: search.narrow() for name, search in searches.items()}


def off(folder: Path) -> float:
    """How wrong both graphs are together, as they lie there."""
    found = 0.0
    for name in ("left", "right"):
        bias = next(t for t in onnx.load(folder / f"{name}.onnx").graph.initializer if t.name == "bias")
        found += float(numpy_helper.to_array(bias)[0] - MODEL.bias[0])
    return found


@pytest.mark.parametrize(
    ("allowed", "kept"),
    [
        (1e-3, {"left": [], "right": ["d"]}),
        (4e-4, {"left": ["b"], "right": ["d"]}),
        (1.5e-4, {"left": ["b"], "right": ["d", "c"]}),
    ],
)
def test_what_costs_most_is_kept_of_whichever_graph(tmp_path: Path, allowed: float, kept: Mapping[str, object]) -> None:
    searches, outcomes = towers(tmp_path)
    held = hold_together(searches, outcomes, lambda: off(tmp_path) / allowed)
    assert {name: outcome.kept for name, outcome in held.items()} == kept
    assert off(tmp_path) <= allowed
    if held != outcomes:
        tried = held["left"].together
        assert [one.holds for one in tried].count(True) >= 1
        assert (tried[0].kept, tried[-1].kept) == (1, sum(len(outcome.kept) for outcome in held.values()))


def test_without_labels_nothing_more_is_kept(tmp_path: Path) -> None:
    searches, outcomes = towers(tmp_path)
    assert hold_together(searches, outcomes, lambda: None) == outcomes


def test_of_graphs_that_never_hold_together_what_lost_least_is_left_to_the_gate(tmp_path: Path) -> None:
    searches, outcomes = towers(tmp_path)
    held = hold_together(searches, outcomes, lambda: 2 + off(tmp_path))
    assert {name: outcome.kept for name, outcome in held.items()} == {"left": ["b"], "right": ["d", "c"]}
    assert off(tmp_path) == pytest.approx(1e-4, abs=1e-6)
    assert not any(one.holds for one in held["left"].together)


def test_of_equal_losses_the_one_with_most_narrowed_is_left(tmp_path: Path) -> None:
    searches, outcomes = towers(tmp_path)
    held = hold_together(searches, outcomes, lambda: 2.0)
    assert {name: outcome.kept for name, outcome in held.items()} == {n: o.kept for n, o in outcomes.items()}
    assert off(tmp_path) == pytest.approx(7e-4, abs=1e-6)
