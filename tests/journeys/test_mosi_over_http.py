"""The shipped sentiment model on the real test split of CMU-MOSI, asked over HTTP, against offline torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.compose import compose
from export.options import Options
from export.pipeline import export
from tests.journeys.conftest import Start
from tests.oracles import SHARED, needs_mosi
from wander.backbones.base import run
from wander.bundle import Bundle
from wander.tasks import tasks
from wander.tasks._sequences import SequenceTask
from wander.training.datasets import arrays, load_rows, open_dataset
from wander.training.evaluation import evaluate

pytestmark = needs_mosi
ROOT = Path(__file__).resolve().parents[2]
DATA = SHARED / "data" / "mosi"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    models = tmp_path_factory.mktemp("mosi") / "models"
    return export(compose(ROOT / "zoo" / "mosi-sentiment"), models / "mosi-sentiment", Options())


def test_served_decisions_are_those_of_offline_torch(serve: Start, bundle: Bundle) -> None:
    task = tasks.get("sentiment")(bundle.manifest, bundle.path)
    split = open_dataset(DATA).load(DATA, "test", bundle.manifest.graphs["model"].signature.inputs)
    items = [{name: np.asarray(rows).tolist() for name, rows in item.items()} for item in split.items]
    client = serve(bundle.path.parents[1])
    reply = client.post("/v1/sentiment", json={"items": items}).raise_for_status()
    answers = reply.json()["results"]
    assert len(answers) == 627

    rows = load_rows(DATA, "test", task)["model"]
    inputs, labels = rows.stacked(range(len(rows))), rows.labels
    host = compose(ROOT / "zoo" / "mosi-sentiment").host
    offline = run(host.towers("score")["model"], inputs)["score"][:, 0]
    served = np.array([answer["score"] for answer in answers])
    np.testing.assert_allclose(served, offline, rtol=0, atol=1e-5)
    assert [a["label"] for a in answers] == ["positive" if score >= 0 else "negative" for score in offline]
    assert [a["class7"] for a in answers] == np.round(np.clip(offline, -3, 3)).astype(int).tolist()

    metrics = task.metrics({"score": served[:, None]}, labels)
    assert metrics["acc2"] >= 0.77
    assert metrics["mae"] <= 0.90


def test_explanations_account_for_what_the_adapter_changed(serve: Start, bundle: Bundle) -> None:
    """Against torch alone: the score of the host, and that of the host whose adapter adds nothing."""
    task = tasks.get("sentiment")(bundle.manifest, bundle.path)
    assert isinstance(task, SequenceTask)
    split = open_dataset(DATA).load(DATA, "test", task.inputs)
    items = [{name: np.asarray(rows).tolist() for name, rows in item.items()} for item in split.items[:200]]
    client = serve(bundle.path.parents[1])
    reply = client.post("/v1/sentiment", json={"items": items}, params={"explain": "true"}).raise_for_status()
    told = [answer["explanation"] for answer in reply.json()["results"]]

    inputs = {name: value[:200] for name, value in arrays(split, task, "model").items()}
    host = compose(ROOT / "zoo" / "mosi-sentiment").host
    adapted = run(host.towers("score")["model"], inputs)["score"][:, 0]
    assert host.adapter_module is not None
    host.adapter_module.zero_()
    alone = run(host.towers("score")["model"], inputs)["score"][:, 0]
    np.testing.assert_allclose([each["score"] for each in told], adapted, rtol=0, atol=1e-5)
    np.testing.assert_allclose([each["residual_score"] for each in told], alone, rtol=0, atol=1e-5)
    assert np.abs(adapted - alone).max() > 0.1
    for name in ("text", "audio", "vision"):
        parts = [each["modalities"][name] for each in told]
        sums = [sum(part["contributions"]) + part["padding"] for part in parts]
        np.testing.assert_allclose(sums, adapted - alone, rtol=0, atol=1e-4)
        assert [len(part["contributions"]) for part in parts] == [len(item[name]) for item in items]


def test_checkpoint_and_bundle_have_the_same_metrics(bundle: Bundle) -> None:
    checkpoint = evaluate(ROOT / "zoo" / "mosi-sentiment", DATA).metrics
    exported = evaluate(bundle.path, DATA).metrics
    for name, value in checkpoint.items():
        assert exported[name] == pytest.approx(value, abs=1e-5), name


def test_no_row_of_the_data_set_ships(bundle: Bundle) -> None:
    samples = bundle.samples("model").inputs
    for part in ("train", "valid", "test"):
        with np.load(DATA / f"mosi_{part}.npz") as file:
            text = file["text"]
        distances = np.abs(samples["text"].reshape(-1, 1, text.shape[1])[:16] - text[None]).max(2)
        assert distances.min() > 1e-3
