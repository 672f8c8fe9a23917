"""A text-video bundle that is small enough to make at once: random towers of the right form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from export import parity
from tests.tasks.test_text_video import EMBED, TOKENS, VOCABULARY, WIDTHS, WORDS, manifest
from wander.bundle import EXAMPLE, PARITY, Bundle, Samples, drafting, write_samples
from wander.signature import Signature
from wander.tasks import tasks
from wander.tasks._texts import bert_tokenizer_json

M = len(WIDTHS)


def publish(folder: Path) -> Bundle:
    described = manifest(text=WORDS)
    task, chance = tasks.get("text_video"), np.random.default_rng(0)
    checks: list[Any] = []
    rows: dict[str, Any] = {}
    with drafting(folder) as draft:
        (draft.path / "tokenizer.json").write_text(bert_tokenizer_json(VOCABULARY, lower_case=False), "utf-8")
        for name, graph in described.graphs.items():
            path = draft.path / graph.file
            _save(path, name, graph.signature)
            inputs = _text(chance) if name == "text" else _video(chance)
            outputs = onnxruntime.InferenceSession(path).run(None, inputs)
            expected = {spec.name: value for spec, value in zip(graph.signature.outputs, outputs, strict=True)}
            samples = Samples(inputs, expected)
            write_samples(draft.path / "samples" / f"{name}.npz", samples)
            checks += parity.check_graph(name, graph, path, samples, task, "fp32", "ort")
            rows[name] = samples.row(0)
        report = {
            "schema_version": 1,
            "reference": "ONNX Runtime itself",
            "samples": {name: {"source": "random", "rows": 4} for name in described.graphs},
            "checks": [check.model_dump() for check in checks],
        }
        (draft.path / PARITY).write_text(json.dumps(report))
        (draft.path / EXAMPLE).write_text(json.dumps(task(described, draft.path).example(rows)))
        return draft.publish(described)


def _text(chance: np.random.Generator) -> dict[str, Any]:
    return {"input_ids": chance.integers(1, 9, (4, 5)), "attention_mask": np.ones((4, 5), np.int64)}


def _video(chance: np.random.Generator) -> dict[str, Any]:
    inputs: dict[str, Any] = {}
    for name, width in WIDTHS.items():
        inputs[f"features_{name}"] = chance.normal(size=(4, TOKENS, width)).astype(np.float32)
    for name, width in WIDTHS.items():
        inputs[f"maximum_{name}"] = chance.normal(size=(4, width)).astype(np.float32)
    return inputs | {"positions": np.ones((4, M, TOKENS), np.int64), "mask": np.ones((4, M, TOKENS), np.int64)}


def _save(path: Path, name: str, signature: Signature) -> None:
    """The text by the sum of its ids, the video by its maxima."""
    chance = np.random.default_rng(1)
    wide = 1 if name == "text" else sum(WIDTHS.values())
    weights = {"w": (wide, M * EMBED), "v": (1, M)}
    constants = [
        onnx.numpy_helper.from_array(chance.normal(0, 0.1, shape).astype(np.float32), key)
        for key, shape in weights.items()
    ]
    node = helper.make_node
    if name == "text":
        constants.append(onnx.numpy_helper.from_array(np.array([1]), "axis"))
        nodes = [
            node("Mul", ["input_ids", "attention_mask"], ["kept"]),
            node("Cast", ["kept"], ["ids"], to=TensorProto.FLOAT),
            node("ReduceSum", ["ids", "axis"], ["sum"], keepdims=1),
            node("MatMul", ["sum", "w"], ["text_embedding"]),
            node("MatMul", ["sum", "v"], ["logits"]),
            node("Softmax", ["logits"], ["text_weights"], axis=1),
        ]
    else:
        constants = constants[:1]
        nodes = [
            node("Concat", [f"maximum_{expert}" for expert in WIDTHS], ["maxima"], axis=1),
            node("MatMul", ["maxima", "w"], ["video_embedding"]),
            node("Cast", ["mask"], ["there"], to=TensorProto.FLOAT),
            node("ReduceMax", ["there"], ["availability"], axes=[2], keepdims=0),
        ]
    types = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    ends = [
        [helper.make_tensor_value_info(spec.name, types[spec.dtype], spec.dims) for spec in specs]
        for specs in (signature.inputs, signature.outputs)
    ]
    graph = helper.make_graph(nodes, name, *ends, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
