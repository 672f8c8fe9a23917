"""What stays in fp32, and what a metric may lose."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from export.gates import BARS, Bar, gate_metrics, losses
from export.narrowing import Outcome, Search, Trial, fewest
from export.precisions import Narrowing, precisions
from export.samples import Inputs
from tests.serving.building import Linear, random_rows
from wander.errors import ParityError
from wander.manifest import Graph
from wander.tasks.emotion import Emotion

MODEL = Linear("emotion")


@given(units=st.integers(1, 70), needed=st.integers(0, 80))
def test_the_fewest_that_hold_are_found(units: int, needed: int) -> None:
    """None being kept was tried before."""
    needed = max(1, needed)
    tried: list[int] = []

    def trial(kept: int) -> Trial:
        tried.append(kept)
        return Trial(kept, 1, 1, 0, None, holds=kept >= needed)

    found = fewest(units, trial, lambda _: None)
    if needed < units:
        assert found[-1].holds
        assert found[-1].kept == needed == tried[-1]
    else:
        assert not found or not found[-1].holds
    assert len(tried) <= 2 * units.bit_length() + 2
    assert all(0 < kept < units for kept in tried)


class Costly(Narrowing):
    """Scales the bias for every unit that is not kept, as a narrowing does that is wrong by so much."""

    precision = "int8"
    costs: Mapping[str, float] = {"a": 0.0, "b": 40.0, "c": 1e-4, "d": 3.0}

    def units(self) -> Mapping[str, Sequence[str]]:
        return {name: [name] for name in self.costs}

    def write(self, target: Path, kept: Collection[str]) -> None:
        model = onnx.load(self.graph)
        bias = next(tensor for tensor in model.graph.initializer if tensor.name == "bias")
        off = sum(cost for name, cost in self.costs.items() if name not in kept)
        shifted = numpy_helper.to_array(bias) + np.array([off, 0, 0], np.float32)
        bias.CopyFrom(numpy_helper.from_array(shifted.astype(np.float32), "bias"))
        onnx.save(model, target)


def narrowing_of(kind: type[Narrowing], tmp_path: Path, labels: Any = None) -> Outcome:
    MODEL.save(tmp_path / "model.onnx")
    (tmp_path / "scratch").mkdir()
    graph = Graph(file="model.onnx", signature=MODEL.signature, max_batch_size=32)
    rows = Inputs(random_rows(64), "made up", labels)
    return Search(kind, graph, tmp_path / "model.onnx", rows, Emotion, "ort", tmp_path / "scratch").narrow()


def test_what_costs_most_is_kept_and_no_more(tmp_path: Path) -> None:
    outcome = narrowing_of(Costly, tmp_path)
    assert outcome.kept == ["b", "d"]
    assert outcome.units == 4
    assert outcome.costs["b"] > outcome.costs["d"] > outcome.costs["c"] > 0
    assert outcome.costs["a"] == 0
    assert not outcome.trials[0].holds
    assert outcome.trials[-1].holds
    assert (tmp_path / "scratch" / "model.onnx").exists()
    bias = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "model.onnx").graph.initializer}["bias"]
    np.testing.assert_allclose(bias - MODEL.bias, [1e-4, 0, 0], atol=1e-6)


def test_nothing_is_kept_and_nothing_measured_where_all_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Costly, "costs", {"a": 0.0, "c": 1e-4})
    outcome = narrowing_of(Costly, tmp_path)
    assert (outcome.kept, outcome.costs, len(outcome.trials)) == ([], {}, 1)


def test_a_metric_that_loses_too_much_keeps_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decisions agree as much as they must, but the labels say that those which flip were right."""
    monkeypatch.setattr(Costly, "costs", {"a": 0.0, "d": 0.1})
    monkeypatch.setitem(BARS, "int8", Bar(10, agreement=0.5))
    labels = MODEL(random_rows(64))["logits"].argmax(1)
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    assert narrowing_of(Costly, tmp_path / "without").kept == []
    outcome = narrowing_of(Costly, tmp_path / "with", labels)
    assert outcome.kept == ["d"]
    assert outcome.trials[0].loss is not None
    assert outcome.trials[0].loss > 1


def test_a_graph_that_never_holds_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Costly, "costs", {"a": 30.0, "b": 40.0})
    with pytest.raises(ParityError, match=r"even one of its 2 parts narrowed.*use --precision fp32"):
        narrowing_of(Costly, tmp_path)


@pytest.mark.parametrize(
    ("name", "was", "now", "loss"),
    [
        ("accuracy", 0.80, 0.795, 1.0),
        ("acc7", 0.40, 0.41, -2.0),
        ("text_to_image.r1", 0.50, 0.495, 1.0),
        ("mae", 0.90, 0.918, 2.0),
        ("r5", 0.0, 0.0, 0.0),
    ],
)
def test_losses_are_in_parts_of_what_may_be_lost(name: str, was: float, now: float, loss: float) -> None:
    assert losses({name: was, "corr": 0.5}, {name: now, "corr": 0.1}) == {name: pytest.approx(loss)}


def test_the_metric_that_lost_most_is_named() -> None:
    gate_metrics({"acc2": 0.8, "mae": 1.0}, {"acc2": 0.795, "mae": 1.01})
    with pytest.raises(ParityError, match=r"mae went from 1\.0000 to 1\.0200: 2\.0 times"):
        gate_metrics({"acc2": 0.8, "mae": 1.0}, {"acc2": 0.795, "mae": 1.02})


def test_bars() -> None:
    bar = Bar(0.1, agreement=0.95, cosine=0.9)
    assert bar.passes(0.1, 0.0, 19 / 20, 20, narrow=True)
    assert not bar.passes(0.1, 0.0, 18 / 20, 20, narrow=True)
    assert bar.passes(0.1, 0.0, 7 / 8, 8, narrow=True)  # one of few
    assert not bar.passes(0.2, 1.0, 1.0, 20, narrow=True)
    assert not bar.passes(0.1, 0.8, 1.0, 0, narrow=True)
    assert not bar.passes(float("nan"), 1.0, 1.0, 20, narrow=True)
    assert not Bar(1e-5).passes(0.0, 1.0, 0.99, 100, narrow=False)


# Casts


def test_casts_stand_only_between_what_is_narrow_and_what_is_not(tmp_path: Path) -> None:
    """x -> Mul -> MatMul -> Relu(kept) -> Add -> y, and a weight that both kinds read."""
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32) * 3, "w")
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["a"], name="Mul_0"),
        helper.make_node("MatMul", ["a", "w"], ["b"], name="MatMul_1"),
        helper.make_node("Relu", ["b"], ["c"], name="Relu_2"),
        helper.make_node("Add", ["c", "w"], ["y"], name="Add_3"),
    ]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 4])] for name in "xy"]
    graph = helper.make_graph(nodes, "g", *ends, [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "a.onnx")
    kind = precisions.get("fp16")(tmp_path / "a.onnx", {}, tmp_path)
    kind.write(tmp_path / "b.onnx", ["Relu_2", "Add_3"])
    written = onnx.load(tmp_path / "b.onnx").graph
    assert [node.op_type for node in written.node] == ["Cast", "Mul", "MatMul", "Cast", "Relu", "Add"]
    assert {tensor.name: tensor.data_type for tensor in written.initializer} == {
        "w.narrow": TensorProto.FLOAT16,
        "w": TensorProto.FLOAT,
    }


@given(value=st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100))
def test_bf16_weights_are_rounded_to_the_nearest(value: float) -> None:
    import ml_dtypes

    from export.precisions._casts import _Rewrite

    graph = helper.make_graph([], "g", [], [], [numpy_helper.from_array(np.array([value], np.float32), "w")])
    tensor = _Rewrite(graph, TensorProto.BFLOAT16, {"w"})._weight("w", True)
    wanted = np.array([value], np.float32).astype(ml_dtypes.bfloat16)
    assert np.frombuffer(tensor.raw_data, "<u2") == wanted.view(np.uint16)
