"""Sentiment, emotion and tensors: what they make of sequences, and of the numbers of a model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tasks.front_ends.sounds import tone, wav
from wander.errors import BundleError, InputError
from wander.manifest import BackboneRef, Graph, Manifest
from wander.signature import Signature, TensorSpec
from wander.tasks import tasks
from wander.tasks._sequences import SequenceTask, numbers

LABELS = ("angry", "happy", "sad")


def bound(name: str = "sentiment", dims: tuple[int, ...] = (1,), graph: str = "model", **fields: Any) -> SequenceTask:
    """A task for a model of one modality: three rows of two numbers."""
    signature = Signature(
        inputs=(TensorSpec(name="audio", dtype="float32", dims=("batch", 3, 2)),),
        outputs=(TensorSpec(name=tasks.get(name).output, dtype="float32", dims=("batch", *dims)),),
    )
    manifest = Manifest(
        task=name,
        graphs={graph: Graph(file="model.onnx", signature=signature, max_batch_size=4)},
        adapter={"kind": "none"},
        backbone=BackboneRef(kind="none", id="tests", sha256=""),
        **fields,
    )
    task = tasks.get(name)(manifest, Path("nowhere"))
    assert isinstance(task, SequenceTask)
    return task


def answer(task: SequenceTask, *values: float) -> dict[str, Any]:
    return task.postprocess({}, {"model": {task.output: np.array(values, np.float32)}})


# sequences


def test_short_sequences_are_padded_with_the_declared_row() -> None:
    zeros = bound().preprocess({"audio": [[1, 2]]})["model"]["audio"]
    assert zeros.tolist() == [[1, 2], [0, 0], [0, 0]]
    declared = bound(preprocessing={"padding": {"audio": [7, 8]}}).preprocess({"audio": [[1, 2]]})["model"]["audio"]
    assert declared.tolist() == [[1, 2], [7, 8], [7, 8]]
    assert zeros.dtype == declared.dtype == np.float32


@pytest.mark.parametrize("value", [{}, {"audio": None}])
def test_a_missing_modality(value: dict[str, Any]) -> None:
    for declared in ({}, {"missing": {"audio": "error"}}):
        with pytest.raises(InputError) as caught:
            bound(preprocessing=declared).preprocess(value)
        assert caught.value.field == "audio"
    task = bound(preprocessing={"missing": {"audio": "padding"}, "padding": {"audio": [7, 8]}})
    assert task.preprocess(value)["model"]["audio"].tolist() == [[7, 8]] * 3
    assert "audio" not in task.schema()["required"]


@pytest.mark.parametrize("value", [[], [[]], [[1, 2]] * 4, [[1, 2, 3]], [1, 2], 3, [[[1, 2]]]])
def test_shapes_that_do_not_fit(value: Any) -> None:
    with pytest.raises(InputError, match="1 to 3 rows of 2 numbers") as caught:
        bound().preprocess({"audio": value})
    assert caught.value.field == "audio"


@pytest.mark.parametrize(
    "value",
    [
        [[math.nan, 1]],
        [[math.inf, 1]],
        [[1e39, 1]],
        [["1", 1]],
        [[None, 1]],
        [[True, False]],
        [[1j, 1]],
        [[1, 2], [3]],
        [[10**400, 1]],
        "text",
        {},
        np.array([[object()]]),
        np.array([["2026-01-01"]], "datetime64[D]"),
    ],
)
def test_what_is_no_finite_number(value: Any) -> None:
    with pytest.raises(InputError) as caught:
        numbers(value, "audio")
    assert caught.value.field == "audio"


@pytest.mark.parametrize("dtype", ["float16", ">f4", "float64", "longdouble", "int8", "uint64"])
def test_arrays_of_any_numbers(dtype: str) -> None:
    array = numbers(np.array([[1, 2]], dtype), "audio")
    assert array.dtype == np.float32
    assert array.dtype.isnative
    assert array.tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"graph": "tower"}, "needs a graph called model"),
        ({"preprocessing": {"missing": {"audio": "guess"}}}, "preprocessing.missing.audio"),
        ({"preprocessing": {"missing": {"smell": "error"}}}, "names smell"),
        ({"preprocessing": {"padding": {"smell": [1]}}}, "names smell"),
        ({"preprocessing": {"padding": {"audio": [1]}}}, "must hold 2 values"),
        ({"preprocessing": {"speed": 2}}, "preprocessing.speed"),
        ({"dims": (2,)}, "one score an item"),
        ({"labels": ("good",)}, "two labels"),
        ({"name": "emotion", "dims": (2,), "labels": LABELS}, "3 names do not fit"),
    ],
)
def test_manifests_that_do_not_fit(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        bound(**fields)


# front ends


@pytest.fixture
def spoken(tmp_path: Path) -> SequenceTask:
    """A model of a sentence (4 words of 2 numbers), a recording in two inputs, and vision, which may be missing."""
    (tmp_path / "words.txt").write_text("good\nbad\n", encoding="utf-8")
    np.save(tmp_path / "vectors.npy", np.array([[0, 0], [1, 2], [-1, -2]], np.float32))
    sizes = {"text": (4, 2), "audio": (8, 40), "change": (8, 40), "vision": (1, 3)}
    signature = Signature(
        inputs=tuple(TensorSpec(name=n, dtype="float32", dims=("batch", *size)) for n, size in sizes.items()),
        outputs=(TensorSpec(name="score", dtype="float32", dims=("batch", 1)),),
    )
    manifest = Manifest(
        task="sentiment",
        graphs={"model": Graph(file="model.onnx", signature=signature, max_batch_size=4)},
        adapter={"kind": "none"},
        backbone=BackboneRef(kind="none", id="tests", sha256=""),
        preprocessing={
            "front_ends": {
                "text": {"kind": "words"},
                "audio": {"kind": "logmel", "frames": 1, "views": {"audio": "bands", "change": "changes"}},
            },
            "missing": {"audio": "padding", "change": "padding", "vision": "padding"},
            "padding": {"text": [7, 8], "audio": [-60] * 40},
        },
    )
    task = tasks.get("sentiment")(manifest, tmp_path)
    assert isinstance(task, SequenceTask)
    return task


RECORDING = wav(tone(0.3))


def test_raw_input_becomes_features(spoken: SequenceTask) -> None:
    item = {"text": "Bad, good?", "audio": RECORDING}
    made = spoken.preprocess(item)["model"]
    assert made["text"].tolist() == [[-1, -2], [1, 2], [7, 8], [7, 8]]
    assert made["audio"].shape == made["change"].shape == (8, 40)
    assert made["audio"].max() > -30
    assert made["vision"].tolist() == [[0, 0, 0]]


def test_features_are_still_taken(spoken: SequenceTask) -> None:
    item = {"text": [[1, 2]], "audio": np.ones((2, 40), np.float32)}
    made = spoken.preprocess(item)["model"]
    assert made["text"].tolist() == [[1, 2], [7, 8], [7, 8], [7, 8]]
    assert made["audio"][:3, 0].tolist() == [1, 1, -60]
    assert made["change"].max() == 0


@pytest.mark.parametrize(
    ("item", "field", "message"),
    [
        ({}, "text", "is missing"),
        ({"text": None}, "text", "is missing"),
        ({"text": ""}, "text", "no word"),
        ({"text": 3}, "text", "rows of 2 numbers"),
        ({"text": b"good"}, "text", "rows of 2 numbers"),
        ({"text": "good", "audio": b"a text"}, "audio", "no sound file"),
        ({"text": "good", "audio": "a text"}, "audio", "rows of 40 numbers"),
        ({"text": "good", "audio": RECORDING, "change": np.ones((2, 40))}, "change", "made of audio"),
        ({"text": "good", "vision": "a smile"}, "vision", "no front end"),
        ({"text": "good", "vision": RECORDING}, "vision", "no front end"),
    ],
)
def test_raw_input_that_is_refused(spoken: SequenceTask, item: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        spoken.preprocess(item)
    assert caught.value.field == field


def test_what_a_model_with_front_ends_says_of_itself(spoken: SequenceTask) -> None:
    assert spoken.raw() == ("text", "audio")
    assert spoken.files() == ("audio",)
    schema = spoken.schema()
    assert schema["required"] == ["text"]
    assert [way["type"] for way in schema["properties"]["text"]["anyOf"]] == ["string", "array"]
    assert "contentEncoding" in str(schema["properties"]["audio"]["anyOf"][0])
    example = spoken.example(spoken.preprocess({"text": "bad good"}))
    assert example["text"].startswith("bad good")
    assert set(example) == {"text", "audio"}


def test_a_model_without_front_ends_says_that_it_takes_features() -> None:
    assert bound().raw() == bound().files() == ()
    for value in ("a sentence", RECORDING, {"logmel": [[0.0] * 40]}):
        with pytest.raises(InputError, match="the features that this model takes: it has no front end"):
            bound().preprocess({"audio": value})


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"audio": {"kind": "telepathy"}}, "front_ends.audio.kind: 'telepathy' is none of .*logmel, words"),
        ({"audio": {}}, "front_ends.audio.kind"),
        ({"audio": {"kind": "logmel"}}, "front_ends.audio.views"),
        ({"audio": {"kind": "logmel", "views": {"audio": "bands"}}}, "rows of 160 numbers"),
        ({"smell": {"kind": "words"}}, "smell, which is no input|words.txt is missing"),
    ],
)
def test_front_ends_that_do_not_fit(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        bound(preprocessing={"front_ends": declared})


# sentiment


@pytest.mark.parametrize(
    ("score", "label", "class7"),
    [
        (0.0, "positive", 0),
        (-0.0, "positive", 0),
        (-0.001, "negative", 0),
        (0.4, "positive", 0),
        (0.6, "positive", 1),
        (-1.6, "negative", -2),
        (2.51, "positive", 3),
        (9.0, "positive", 3),
        (-9.0, "negative", -3),
    ],
)
def test_sentiment_answers(score: float, label: str, class7: int) -> None:
    said = answer(bound(), score)
    assert said == {"score": pytest.approx(score), "label": label, "class7": class7}


def test_sentiment_labels_can_be_named() -> None:
    task = bound(labels=("bad", "good"))
    assert [answer(task, score)["label"] for score in (-1.0, 1.0)] == ["bad", "good"]


@given(st.floats(-6, 6))
def test_sentiment_margins_are_the_distances_to_the_nearest_border(score: float) -> None:
    _, margins = tasks.get("sentiment").decisions({"score": np.array([[score]])})
    borders = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    assert margins[0] == pytest.approx([abs(score), np.abs(borders - score).min()], abs=1e-9)


def test_sentiment_metrics() -> None:
    score = np.array([2.2, -0.4, 0.1, -3.7, 1.4, 0.0])
    truth = np.array([3.0, -1.0, -0.2, -3.0, 1.0, 0.4])
    metrics = tasks.get("sentiment").metrics({"score": score[:, None]}, truth)
    # sign: + - + - + +  against  + - - - + +
    assert metrics["acc2"] == pytest.approx(5 / 6)
    positive, negative = 2 * 3 / (4 + 3), 2 * 2 / (2 + 3)
    assert metrics["f1"] == pytest.approx((3 * positive + 3 * negative) / 6)
    # classes: 2 0 0 -3 1 0  against  3 -1 0 -3 1 0
    assert metrics["acc7"] == pytest.approx(4 / 6)
    assert metrics["mae"] == pytest.approx((0.8 + 0.6 + 0.3 + 0.7 + 0.4 + 0.4) / 6)
    x, y = score - score.mean(), truth - truth.mean()
    assert metrics["corr"] == pytest.approx((x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum()))


# emotion


def test_emotion_answers() -> None:
    said = answer(bound("emotion", (3,), labels=LABELS), 0.0, math.log(2), math.log(5))
    assert said["label"] == "sad"
    assert said["score"] == pytest.approx(5 / 8)
    assert said["probabilities"] == pytest.approx({"angry": 1 / 8, "happy": 2 / 8, "sad": 5 / 8})


def test_emotion_of_huge_logits() -> None:
    said = answer(bound("emotion", (3,), labels=LABELS), -3e38, 3e38, 0.0)
    assert said["probabilities"] == {"angry": 0.0, "happy": 1.0, "sad": 0.0}


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=5))
def test_emotion_margin_is_half_the_lead(logits: list[float]) -> None:
    """One logit can fall, and the other rise, by so much each."""
    decisions, margins = tasks.get("emotion").decisions({"logits": np.array([logits])})
    first, second, *_ = sorted(logits, reverse=True)
    assert logits[decisions[0, 0]] == first
    assert margins[0, 0] == pytest.approx((first - second) / 2)


def test_one_class_decides_nothing() -> None:
    decisions, margins = tasks.get("emotion").decisions({"logits": np.zeros((4, 1))})
    assert decisions.shape == margins.shape == (4, 0)


def test_emotion_metrics() -> None:
    predicted, truth = [0, 1, 2, 1, 1, 0, 2], np.array([0, 1, 2, 2, 1, 1, 0])
    metrics = tasks.get("emotion").metrics({"logits": np.eye(3)[predicted]}, truth)
    assert metrics["accuracy"] == pytest.approx(4 / 7)
    total = 0.0
    for label in range(3):
        hits = sum(p == t == label for p, t in zip(predicted, truth, strict=True))
        precision = hits / max(1, predicted.count(label))
        recall = hits / (truth == label).sum()
        total += (truth == label).sum() * 2 * precision * recall / (precision + recall)
    assert metrics["f1"] == pytest.approx(total / 7)


def test_f1_of_a_class_that_is_never_right() -> None:
    metrics = tasks.get("emotion").metrics({"logits": np.eye(2)[[1, 1]]}, np.array([0, 0]))
    assert metrics == {"accuracy": 0.0, "f1": 0.0}
