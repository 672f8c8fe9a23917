"""Image-text: what an item may be, which graphs it needs, and what is said of a wrong one."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest

from tests.tasks.hostile_images import encoded, picture
from wander.errors import BundleError, InputError
from wander.manifest import BackboneRef, Graph, Manifest
from wander.signature import Signature, TensorSpec
from wander.tasks import tasks
from wander.tasks.base import Task

sentencepiece = pytest.importorskip("sentencepiece")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("spm")
    model = io.BytesIO()
    lines = (f"a dog runs {number} and a cat sleeps {number % 7}" for number in range(500))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=model, vocab_size=60, minloglevel=2, hard_vocab_limit=False
    )
    (where / "beit3.spm").write_bytes(model.getvalue())
    return where


def manifest(side: int = 8, **preprocessing: object) -> Manifest:
    def graph(name: str, inputs: dict[str, tuple[str, tuple[int | str, ...]]]) -> Graph:
        specs = tuple(TensorSpec(name=n, dtype=t, dims=("batch", *dims)) for n, (t, dims) in inputs.items())
        outputs = (TensorSpec(name=f"{name}_embedding", dtype="float32", dims=("batch", 4)),)
        return Graph(file=f"{name}.onnx", signature=Signature(inputs=specs, outputs=outputs), max_batch_size=2)

    return Manifest(
        task="image_text",
        graphs={
            "image": graph("image", {"image": ("float32", (3, side, side))}),
            "text": graph("text", dict.fromkeys(("text_ids", "padding_mask"), ("int64", ("tokens",)))),
        },
        preprocessing={
            "image": {"size": [8, 8], "mean": [0.5] * 3, "std": [0.5] * 3},
            "text": {"kind": "beit3", "max_length": 16, "pad": False},
            **preprocessing,
        },
        adapter={"kind": "multiway"},
        backbone=BackboneRef(kind="beit3", id="x", sha256=""),
    )


@pytest.fixture(scope="module")
def task(folder: Path) -> Task:
    return tasks.get("image-text")(manifest(), folder)


IMAGE = encoded(picture(), "PNG")


def test_an_item_goes_to_the_graphs_that_it_needs(task: Task) -> None:
    score = task.operation("score").preprocess({"image": IMAGE, "text": "a dog"})
    assert set(score) == {"image", "text"}
    assert score["image"]["image"].shape == (3, 8, 8)
    assert set(task.operation("embed").preprocess({"image": IMAGE})) == {"image"}
    assert set(task.operation("embed").preprocess({"text": "a cat"})) == {"text"}


def test_texts_run_at_their_true_length(task: Task) -> None:
    short = task.operation("embed").preprocess({"text": "dog"})["text"]["text_ids"]
    long = task.operation("embed").preprocess({"text": "a dog runs and a cat sleeps " * 9})["text"]["text_ids"]
    assert len(short) < len(long) == 16
    assert short[0] == 0
    assert short[-1] == 2


def test_answers(task: Task) -> None:
    outputs = {
        "image": {"image_embedding": np.array([1, 0, 0, 0], np.float32)},
        "text": {"text_embedding": np.array([0.6, 0.8, 0, 0], np.float32)},
    }
    item = {"image": IMAGE, "text": "a dog"}
    assert task.operation("score").postprocess(item, outputs)["score"] == pytest.approx(0.6)
    one = {"text": outputs["text"]}
    assert task.operation("embed").postprocess({"text": "a"}, one)["modality"] == "text"


@pytest.mark.parametrize(
    ("operation", "item", "field"),
    [
        ("score", {"image": IMAGE}, "text"),
        ("score", {"text": "a"}, "image"),
        ("score", {"image": IMAGE, "text": "a", "top_k": 1}, "top_k"),
        ("score", {"image": b"no image", "text": "a"}, "image"),
        ("embed", {}, "image"),
        ("embed", {"image": IMAGE, "text": "a"}, "image"),
        ("embed", {"text": ""}, "text"),
        ("embed", {"text": 7}, "text"),
    ],
)
def test_a_wrong_item_names_its_field(task: Task, operation: str, item: dict[str, object], field: str) -> None:
    with pytest.raises(InputError) as caught:
        task.operation(operation).preprocess(item)
    assert caught.value.field == field


def test_the_example_can_be_sent(task: Task) -> None:
    calls = task.operation("score").preprocess({"image": IMAGE, "text": "a dog runs"})
    example = task.example(calls)
    again = task.operation("score").preprocess({**example, "image": base64.b64decode(example["image"])})
    np.testing.assert_array_equal(again["text"]["text_ids"], calls["text"]["text_ids"])


@pytest.mark.parametrize("preprocessing", [{"text": {"kind": "bert", "max_length": 8}}, {"image": {}}, {"more": 1}])
def test_a_manifest_that_does_not_fit_is_refused(folder: Path, preprocessing: dict[str, object]) -> None:
    with pytest.raises(BundleError):
        tasks.get("image_text")(manifest(**preprocessing), folder)


def test_a_missing_vocabulary_is_said(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"beit3\.spm"):
        tasks.get("image_text")(manifest(), tmp_path)
