"""Sentiment, emotion and tensors: what they make of sequences, and of the numbers of a model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    ids=repr,
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
