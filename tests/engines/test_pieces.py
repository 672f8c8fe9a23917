"""Cutting graphs: whatever their form, the pieces together are the graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from wander.engines._pieces import Piece, cut
from wander.errors import BundleError

WIDTH = 3
Values = dict[str, NDArray[np.float32]]


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[str],
    outputs: Sequence[str],
    weights: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    """Every tensor float32 (batch, 3)."""
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH]) for name in names]
        for names in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "g", *ends, list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def branches(count: int, length: int = 40) -> onnx.ModelProto:
    """Chains of additions of x and a root of x, so that between two pairs one tensor crosses, and a sum of them."""
    nodes = []
    for branch in range(count):
        for step in range(length // 2):
            x, half, y = (
                f"x{branch}" if step == 0 else f"y{branch}_{step}",
                f"h{branch}_{step}",
                f"y{branch}_{step + 1}",
            )
            nodes += [helper.make_node("Tanh", [x], [half]), helper.make_node("Add", [x, half], [y])]
    ends = [f"y{branch}_{length // 2}" for branch in range(count)]
    nodes.append(helper.make_node("Sum", ends, ["out"]))
    return model(nodes, [f"x{branch}" for branch in range(count)], ["out"])


def run(graph: onnx.ModelProto, values: Values) -> Values:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    return dict(
        zip(names, session.run(names, {one.name: values[one.name] for one in session.get_inputs()}), strict=True)
    )


def together(pieces: Sequence[Piece], values: Values) -> Values:
    """All pieces, each as soon as what it reads is there."""
    waiting = list(pieces)
    while waiting:
        ready = [piece for piece in waiting if values.keys() >= set(piece.inputs)]
        assert ready, "pieces wait for each other"
        for piece in ready:
            waiting.remove(piece)
            found = run(piece.model, values)
            assert tuple(found) == piece.outputs
            values = values | found
    return values


def random_values(graph: onnx.ModelProto) -> Values:
    random = np.random.default_rng(0)
    return {one.name: random.standard_normal((2, WIDTH)).astype(np.float32) for one in graph.graph.input}


@pytest.mark.parametrize(
    ("count", "workers", "expected"),
    [(3, 1, 1), (1, 2, 1), (2, 2, 3), (3, 2, 7), (3, 3, 4), (3, 8, 4), (4, 2, 5), (4, 3, 13)],
)
def test_branches_are_cut_into_as_many_pieces_as_share_out_evenly(count: int, workers: int, expected: int) -> None:
    graph = branches(count)
    pieces = cut(graph, workers)
    assert len(pieces) == expected
    assert sum(len(piece.model.graph.node) for piece in pieces) == len(graph.graph.node)
    values = random_values(graph)
    np.testing.assert_array_equal(together(pieces, values)["out"], run(graph, values)["out"])


def test_a_branch_is_cut_where_one_tensor_crosses() -> None:
    pieces = cut(branches(3, length=42), 2)  # whose middle, 21, is within a pair
    assert all(len(piece.outputs) == 1 for piece in pieces)
    assert {len(piece.model.graph.node) for piece in pieces} == {20, 22, 1}


def test_the_longest_way_comes_first() -> None:
    ahead = [piece.ahead for piece in cut(branches(3), 2)]
    assert ahead == [41, 41, 41, 21, 21, 21, 1]


def test_what_follows_the_branches_is_no_branch() -> None:
    graph = branches(3).graph
    for step in range(30):
        graph.node.append(helper.make_node("Tanh", ["out" if step == 0 else f"t{step}"], [f"t{step + 1}"]))
    graph.output[0].name = "t30"
    pieces = cut(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), 2)
    assert [len(piece.model.graph.node) for piece in pieces] == [20] * 6 + [31]


def test_few_nodes_run_with_what_reads_them() -> None:
    """The mask of a text is prepared by a node or two, which are no branch."""
    graph = branches(2).graph
    for node in graph.node:
        if node.output[0] == "h0_0":
            node.input[0] = "masked"
    graph.node.insert(0, helper.make_node("Neg", ["mask"], ["masked"]))
    graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["batch", WIDTH]))
    pieces = cut(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), 2)
    assert sorted(piece.inputs for piece in pieces) == [("mask", "x0"), ("x1",), ("y0_20", "y1_20")]


def test_every_piece_has_its_own_constants_and_weights() -> None:
    graph = branches(2).graph
    graph.initializer.append(numpy_helper.from_array(np.full(WIDTH, 2, np.float32), "weight"))
    graph.node.insert(0, helper.make_node("Neg", ["weight"], ["constant"]))
    for node in graph.node:
        if node.output[0] in ("h0_3", "h1_3"):
            node.op_type = "Mul"
            node.input.append("constant")
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    pieces = cut(whole, 2)
    assert len(pieces) == 3
    values = random_values(whole)
    np.testing.assert_array_equal(together(pieces, values)["out"], run(whole, values)["out"])


def test_an_output_that_is_an_input_leaves_the_graph_whole() -> None:
    graph = branches(2).graph
    graph.output.append(graph.input[0])
    assert len(cut(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), 2)) == 1


def test_a_type_that_cannot_be_inferred_is_an_error() -> None:
    graph = branches(2)
    for node in graph.graph.node:
        node.op_type, node.domain = "Teleport", "nowhere"
    graph.opset_import.append(helper.make_opsetid("nowhere", 1))
    with pytest.raises(BundleError, match=r"the type of y._20 cannot be inferred"):
        cut(graph, 2)


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """Any graph of sums of two tensors, of which some have no reader and some several."""
    inputs = [f"x{number}" for number in range(draw(st.integers(1, 4)))]
    weights = [numpy_helper.from_array(np.full(WIDTH, 0.5, np.float32), "weight")]
    known, nodes = [*inputs, "weight"], []
    for number in range(draw(st.integers(1, 40))):
        pair = draw(st.lists(st.sampled_from(known), min_size=2, max_size=2))
        nodes.append(helper.make_node("Add", pair, [f"t{number}"]))
        known.append(f"t{number}")
    made = [node.output[0] for node in nodes]
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
    if made[-1] not in outputs:
        outputs.append(made[-1])
    nodes.append(helper.make_node("Sum", [*inputs, made[-1]], ["out"]))
    return model(nodes, inputs, [*outputs, "out"], weights)


@settings(max_examples=150, deadline=None)
@given(graph=graphs(), workers=st.integers(1, 5))
def test_the_pieces_of_any_graph_are_the_graph(graph: onnx.ModelProto, workers: int) -> None:
    onnxruntime.set_default_logger_severity(4)  # nodes that nobody reads
    values = random_values(graph)
    found = together(cut(graph, workers), values)
    for name, value in run(graph, values).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4)
