"""Food: what an item may be, what stands in for a missing modality, and what is answered."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest

from tests.tasks.hostile_images import encoded, picture
from wander.errors import BundleError, InputError
from wander.manifest import BackboneRef, Graph, Manifest
from wander.signature import Signature, TensorSpec
from wander.tasks import tasks
from wander.tasks._texts import bert_tokenizer_json
from wander.tasks.base import Task

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "salt", "rice", "egg"]
IMAGE = encoded(picture(), "PNG")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("food")
    (where / "tokenizer.json").write_text(bert_tokenizer_json("\n".join(WORDS) + "\n", lower_case=True))
    return where


def bound(folder: Path, labels: tuple[str, ...] = ("sushi", "ramen", "cake"), **preprocessing: object) -> Task:
    inputs = (
        TensorSpec(name="image", dtype="float32", dims=("batch", 3, 8, 8)),
        TensorSpec(name="input_ids", dtype="int64", dims=("batch", 6)),
        TensorSpec(name="attention_mask", dtype="int64", dims=("batch", 6)),
    )
    outputs = (TensorSpec(name="logits", dtype="float32", dims=("batch", 3)),)
    graph = Graph(file="model.onnx", signature=Signature(inputs=inputs, outputs=outputs), max_batch_size=2)
    manifest = Manifest(
        task="food",
        graphs={"model": graph},
        labels=labels,
        preprocessing={"image": {"size": [8, 8]}, "text": {"kind": "bert", "max_length": 6}, **preprocessing},
        adapter={"kind": "wander"},
        backbone=BackboneRef(kind="bert_vit", id="x", sha256=""),
    )
    return tasks.get("food")(manifest, folder)


def test_an_item_becomes_the_tensors_of_the_graph(folder: Path) -> None:
    task = bound(folder)
    tensors = task.operation("").preprocess({"image": IMAGE, "text": "Salt and RICE"})["model"]
    for spec in task.manifest.graphs["model"].signature.inputs:
        spec.check(tensors[spec.name][None])
    assert tensors["input_ids"].tolist() == [2, 5, 1, 6, 3, 0]
    assert tensors["attention_mask"].tolist() == [1, 1, 1, 1, 1, 0]


def test_the_best_classes_come_first(folder: Path) -> None:
    operation = bound(folder).operation("")
    outputs = {"model": {"logits": np.array([0.0, 2.0, 1.0], np.float32)}}
    answer = operation.postprocess({"top_k": "2"}, outputs)
    assert answer["label"] == "ramen"
    assert [entry["label"] for entry in answer["labels"]] == ["ramen", "cake"]
    everything = operation.postprocess({}, outputs)["labels"]
    assert sum(entry["probability"] for entry in everything) == pytest.approx(1)


@pytest.mark.parametrize("top_k", [0, 4, "0", "x", "1.5", 1.5, True, [1], "9" * 20])
def test_a_wrong_top_k_is_named(folder: Path, top_k: object) -> None:
    with pytest.raises(InputError, match="from 1 to 3") as caught:
        bound(folder).operation("").preprocess({"image": IMAGE, "text": "egg", "top_k": top_k})
    assert caught.value.field == "top_k"


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"text": "egg"}, "image"),
        ({"image": IMAGE}, "text"),
        ({"image": IMAGE, "text": "  "}, "text"),
        ({"image": IMAGE, "text": 5}, "text"),
        ({"image": b"no image", "text": "egg"}, "image"),
        ({"image": IMAGE, "text": "egg", "colour": "red"}, "colour"),
    ],
)
def test_a_wrong_item_names_its_field(folder: Path, item: dict[str, object], field: str) -> None:
    with pytest.raises(InputError) as caught:
        bound(folder).operation("").preprocess(item)
    assert caught.value.field == field


def test_a_missing_modality_does_what_is_declared_and_nothing_else(folder: Path) -> None:
    task = bound(folder, missing={"image": "mean", "text": "empty"})
    alone = task.operation("").preprocess({"text": "egg"})["model"]
    assert not alone["image"].any()
    empty = task.operation("").preprocess({"image": IMAGE})["model"]
    assert empty["attention_mask"].tolist() == [1, 1, 0, 0, 0, 0]
    with pytest.raises(InputError, match="at least one"):
        task.operation("").preprocess({})


def test_the_example_can_be_sent(folder: Path) -> None:
    task = bound(folder)
    calls = task.operation("").preprocess({"image": IMAGE, "text": "egg salt"})
    example = task.example(calls)
    again = task.operation("").preprocess({**example, "image": base64.b64decode(example["image"])})
    np.testing.assert_array_equal(again["model"]["input_ids"], calls["model"]["input_ids"])


@pytest.mark.parametrize(
    "preprocessing", [{"image": {"size": [9, 9]}}, {"text": {"kind": "bert", "max_length": 7}}, {"surplus": 1}]
)
def test_a_manifest_that_does_not_fit_is_refused(folder: Path, preprocessing: dict[str, object]) -> None:
    with pytest.raises(BundleError):
        bound(folder, **preprocessing)
    with pytest.raises(BundleError, match="labels"):
        bound(folder, labels=("one",))
