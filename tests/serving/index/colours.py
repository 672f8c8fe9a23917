"""A task with two towers, small enough to know every answer: colours, seen or named. Only tests register it.

As a program it is `wander` with this task.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

import wander.tasks
from export import parity
from wander.bundle import EXAMPLE, PARITY, Bundle, Samples, drafting, write_samples
from wander.errors import InputError
from wander.manifest import BackboneRef, Graph, Manifest
from wander.signature import Arrays, Signature, TensorSpec
from wander.tasks._images import load_image
from wander.tasks.base import Calls, Item, Operation, Task

COLOURS = ("red", "green", "blue")
NAME = "colours"


class Colours(Task, Operation):
    """`{"image": file}` or `{"text": names of colours}`; both towers give their share of red, green and blue."""

    summary: ClassVar[str] = "Colours of images and words"
    operations: ClassVar[Mapping[str, str]] = {"embed": summary}
    uploads: ClassVar[tuple[str, ...]] = ("image",)

    def operation(self, name: str) -> Operation:
        return self

    def preprocess(self, item: Item) -> Calls:
        if unknown := sorted(set(item) - {"image", "text"}):
            raise InputError(f"{unknown[0]} is not a field of this model", unknown[0])
        if ("image" in item) == ("text" in item):
            raise InputError("give either an image or a text", "image")
        if "image" in item:
            pixels = np.asarray(load_image(item["image"]), np.float32).mean((0, 1)) / 255
            return {"image": {"colours": pixels + np.float32(1e-3)}}
        if not isinstance(item["text"], str):
            raise InputError("text must be a text", "text")
        counts = [item["text"].split().count(name) for name in COLOURS]
        return {"text": {"colours": np.array(counts, np.float32) + np.float32(1e-3)}}

    def postprocess(self, item: Item, outputs: Mapping[str, Arrays]) -> dict[str, Any]:
        ((graph, tensors),) = outputs.items()
        return {"embedding": tensors["embedding"].tolist(), "modality": graph}

    def schema(self) -> dict[str, Any]:
        properties = {name: {"type": "string"} for name in ("image", "text")}
        return {"type": "object", "properties": properties, "additionalProperties": False}

    def example(self, calls: Mapping[str, Arrays]) -> dict[str, Any]:
        return {"text": "red"}


plugin = Colours


@contextmanager
def registered() -> Iterator[None]:
    """Within, the task is one of those that are discovered, and no other file of this folder is."""
    tasks = wander.tasks.tasks
    names, get = tasks.names, tasks.get
    tasks.names = lambda: sorted([*names(), NAME])  # type: ignore[method-assign]
    tasks.get = lambda name: Colours if name == NAME else get(name)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del tasks.names, tasks.get  # type: ignore[method-assign]


def publish(folder: Path, gain: float = 1.0) -> Bundle:
    """The next version of a model; with another `gain` of red it makes other vectors."""
    gains = np.array([gain, 1, 1], np.float32)
    ends = [TensorSpec(name=name, dtype="float32", dims=("batch", 3)) for name in ("colours", "embedding")]
    graph = {
        name: Graph(file=f"{name}.onnx", signature=Signature(inputs=(ends[0],), outputs=(ends[1],)), max_batch_size=4)
        for name in ("image", "text")
    }
    manifest = Manifest(
        task=NAME,
        graphs=graph,
        adapter={"kind": "multiway"},
        backbone=BackboneRef(kind="none", id="tests", sha256="0" * 64),
    )
    checks: list[Any] = []
    with drafting(folder) as draft:
        for name, one in graph.items():
            _save(draft.path / one.file, gains)
            inputs = np.random.default_rng(0).uniform(0.1, 1, (6, 3)).astype(np.float32)
            scaled = inputs * gains
            expected = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
            samples = Samples({"colours": inputs}, {"embedding": expected})
            write_samples(draft.path / "samples" / f"{name}.npz", samples)
            checks += parity.check_graph(name, one, draft.path / one.file, samples, Colours, "fp32", "ort")
        report = {
            "schema_version": 1,
            "reference": "numpy",
            "samples": {name: {"source": "random", "rows": 6} for name in graph},
            "checks": [check.model_dump() for check in checks],
        }
        (draft.path / PARITY).write_text(json.dumps(report))
        (draft.path / EXAMPLE).write_text(json.dumps({"text": "red"}))
        return draft.publish(manifest)


def _save(path: Path, gains: NDArray[np.float32]) -> None:
    nodes = [
        helper.make_node("Mul", ["colours", "gains"], ["scaled"]),
        helper.make_node("LpNormalization", ["scaled"], ["embedding"], axis=1, p=2),
    ]
    ends = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, ("batch", 3))] for n in ("colours", "embedding")]
    graph = helper.make_graph(nodes, "tower", *ends, [onnx.numpy_helper.from_array(gains, "gains")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)


def picture(red: int, green: int, blue: int) -> bytes:
    """A PNG file of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (red, green, blue)).save(file, "PNG")
    return file.getvalue()


if __name__ == "__mp_main__":  # a worker of the program below
    kept = registered()
    kept.__enter__()

if __name__ == "__main__":
    from wander.__main__ import main

    with registered():
        main(sys.argv[1:])
