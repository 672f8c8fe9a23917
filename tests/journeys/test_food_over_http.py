"""The shipped food model on the real test split, pictures and ingredients sent over HTTP, against offline torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from export.compose import compose
from export.options import Options
from export.pipeline import export
from tests.journeys.conftest import Start
from tests.oracles import SHARED
from wander.backbones.base import run
from wander.bundle import Bundle
from wander.tasks import tasks
from wander.training.datasets import Split, arrays, open_dataset
from wander.training.evaluation import evaluate

DATA = SHARED / "data" / "food"
ZOO = Path(__file__).resolve().parents[2] / "zoo" / "food"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the folder shared/data/food is not beside the project")

FLOOR = 0.75
"""Of the test accuracy with both; a ridge regression on words alone has 0.69, on colours and gradients 0.38."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(compose(ZOO), tmp_path_factory.mktemp("food") / "models" / "food", Options())


@pytest.fixture(scope="module")
def client(serve: Start, bundle: Bundle) -> httpx.Client:
    return serve(bundle.path.parents[1])


@pytest.fixture(scope="module")
def split() -> Split:
    found = open_dataset(DATA).load(DATA, "test", ())
    assert len(found) == 160
    return found


@pytest.fixture(scope="module")
def ask(client: httpx.Client, split: Split) -> Callable[..., list[dict[str, Any]]]:
    """Every item of the split as a form of its own, with the given fields."""

    def asked(*fields: str) -> list[dict[str, Any]]:
        answers = []
        for item in split.items:
            parts: list[tuple[str, tuple[str | None, bytes]]] = [("top_k", (None, b"10"))]
            if "image" in fields:
                parts.append(("image", ("dish.jpg", item["image"])))
            if "text" in fields:
                parts.append(("text", (None, item["text"].encode())))
            answers.append(client.post("/v1/food", files=parts).raise_for_status().json())
        return answers

    return asked


def accuracy(answers: list[dict[str, Any]], split: Split, labels: tuple[str, ...]) -> float:
    return float(np.mean([a["label"] == labels[label] for a, label in zip(answers, split.labels, strict=True)]))


def test_served_decisions_are_those_of_offline_torch(
    ask: Callable[..., list[dict[str, Any]]], bundle: Bundle, split: Split
) -> None:
    answers, labels = ask("image", "text"), bundle.manifest.labels
    task = tasks.get("food")(bundle.manifest, bundle.path)
    host = compose(ZOO).host
    offline = run(host.towers("logits")["model"], arrays(split, task, "model"))["logits"].astype(np.float64)
    powers = np.exp(offline - offline.max(1, keepdims=True))
    expected = powers / powers.sum(1, keepdims=True)
    served = [{entry["label"]: entry["probability"] for entry in answer["labels"]} for answer in answers]
    np.testing.assert_allclose([[row[name] for name in labels] for row in served], expected, rtol=0, atol=1e-5)
    assert [answer["label"] for answer in answers] == [labels[row] for row in offline.argmax(1)]


def test_both_are_better_than_either(ask: Callable[..., list[dict[str, Any]]], bundle: Bundle, split: Split) -> None:
    found = {fields: accuracy(ask(*fields), split, bundle.manifest.labels) for fields in FIELDS}
    assert found["image", "text"] > max(found["image",], found["text",])
    assert found["image", "text"] >= FLOOR
    assert found["image",] > 0.2  # twice what guessing gives


FIELDS: tuple[tuple[str, ...], ...] = (("image", "text"), ("image",), ("text",))


def test_checkpoint_and_bundle_have_the_same_metrics(bundle: Bundle) -> None:
    checkpoint, exported = evaluate(ZOO, DATA), evaluate(bundle.path, DATA)
    assert checkpoint.n == exported.n == 160
    assert exported.metrics == pytest.approx(checkpoint.metrics, abs=1e-9)
