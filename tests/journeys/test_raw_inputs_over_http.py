"""The shipped models of raw input on their real test splits, asked over HTTP, against offline torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.compose import compose
from export.options import Options
from export.pipeline import export
from tests.journeys.conftest import Start
from tests.oracles import SHARED
from wander.backbones.base import run
from wander.bundle import Bundle
from wander.tasks import Task, tasks
from wander.training.datasets import load_rows, open_dataset
from wander.training.evaluation import evaluate

DATA = {"mosi-sentence": SHARED / "data" / "mosi", "ravdess-emotion": SHARED / "data" / "ravdess"}
ROOT = Path(__file__).resolve().parents[2] / "zoo"
pytestmark = pytest.mark.skipif(
    not all(folder.is_dir() for folder in DATA.values()), reason="the folder shared/data is not beside the project"
)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """Both, beside the sentiment model that takes features."""
    models = tmp_path_factory.mktemp("raw") / "models"
    explained = {"mosi-sentence": True, "ravdess-emotion": False, "mosi-sentiment": False}
    return {
        name: export(compose(ROOT / name), models / name, Options(explain=explain))
        for name, explain in explained.items()
    }


def bound(bundle: Bundle) -> Task:
    return tasks.get(bundle.manifest.task)(bundle.manifest, bundle.path)


def offline(name: str, bundle: Bundle) -> tuple[Task, np.ndarray, np.ndarray]:
    """The task, what eager torch says of the test split, and its labels."""
    task = bound(bundle)
    rows = load_rows(DATA[name], "test", task)["model"]
    host = compose(ROOT / name).host
    outputs = run(host.towers(task.output)["model"], rows.stacked(range(len(rows))))
    return task, outputs[task.output], rows.labels


def test_sentences_are_answered_as_offline_torch_does(serve: Start, bundles: dict[str, Bundle]) -> None:
    """No request names a model: those of sentences go to the one that reads them."""
    task, scores, labels = offline("mosi-sentence", bundles["mosi-sentence"])
    items = open_dataset(DATA["mosi-sentence"]).load_raw(DATA["mosi-sentence"], "test", ("text",)).items
    client = serve(bundles["mosi-sentence"].path.parents[1])
    answers = client.post("/v1/sentiment", json={"items": list(items)}).raise_for_status().json()["results"]
    assert len(answers) == 627
    served = np.array([[answer["score"]] for answer in answers], np.float32)
    np.testing.assert_allclose(served, scores, rtol=0, atol=1e-5)
    assert task.metrics({"score": served}, labels) == pytest.approx(task.metrics({"score": scores}, labels), abs=1e-5)
    assert task.metrics({"score": served}, labels)["acc2"] > 0.6
    explained = client.post("/v1/sentiment", json={"text": "This movie was really good!", "explain": True}).json()
    assert explained["model"] == "mosi-sentence"
    assert explained["tokens"]["text"] == ["this", "movie", "was", "really", "good"]
    assert len(explained["explanation"]["modalities"]["text"]["contributions"]) == 5


def test_recordings_are_answered_as_offline_torch_does(serve: Start, bundles: dict[str, Bundle]) -> None:
    """The test split as log-mel frames, and 16 recordings as files, which differ from them by their rounding."""
    name = "ravdess-emotion"
    task, logits, labels = offline(name, bundles[name])
    split = open_dataset(DATA[name]).load_raw(DATA[name], "test", ("audio",))
    items = [{"audio": {"logmel": item["audio"]["logmel"].tolist()}} for item in split.items]
    client = serve(bundles[name].path.parents[1])
    answers = client.post("/v1/emotion", json={"items": items}).raise_for_status().json()["results"]
    assert len(answers) == 240
    names = bundles[name].manifest.labels
    assert [answer["label"] for answer in answers] == [names[best] for best in logits.argmax(1)]
    accuracy = float(np.mean([names.index(a["label"]) == label for a, label in zip(answers, labels, strict=True)]))
    assert accuracy == pytest.approx(task.metrics({"logits": logits}, labels)["accuracy"])
    assert accuracy > 0.4

    of = dict(zip(split.ids, answers, strict=True))
    off = []
    for path in sorted((DATA[name] / "wav").glob("*.wav")):
        answer = client.post("/v1/emotion", files={"audio": (path.name, path.read_bytes(), "audio/wav")})
        assert answer.status_code == 200, answer.text
        frames = of[path.stem.removeprefix("03-")]["probabilities"]
        off.append(max(abs(answer.json()["probabilities"][label] - frames[label]) for label in names))
    assert len(off) == 16
    assert np.median(off) < 0.1


def test_checkpoint_and_bundle_have_the_same_metrics(bundles: dict[str, Bundle]) -> None:
    for name, data in DATA.items():
        checkpoint = evaluate(ROOT / name, data).metrics
        assert evaluate(bundles[name].path, data).metrics == pytest.approx(checkpoint, abs=1e-5), name
