"""Sentences and recordings over HTTP: in JSON, in forms, in bulk, and beside models that take features alone."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.client import Client
from serving.settings import Settings
from tests.serving import building
from tests.serving.building import Linear, Running, npz, publish, running
from tests.tasks.front_ends.sounds import tone, wav
from wander.bundle import EXAMPLE, Bundle

SIZES = {"text": (5, 2), "audio": (20, 40)}
PREPROCESSING = {
    "front_ends": {
        "text": {"kind": "words"},
        "audio": {"kind": "logmel", "frames": 1, "views": {"audio": "bands"}},
    },
    "missing": {"text": "padding", "audio": "padding"},
}
VECTORS = np.array([[0, 0], [1, 2], [-1, -2]], np.float32)
RECORDING = wav(tone(0.3))
ENCODED = base64.b64encode(RECORDING).decode()


def vectors() -> bytes:
    file = io.BytesIO()
    np.save(file, VECTORS)
    return file.getvalue()


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`spoken` reads sentences and recordings, `features` has the same inputs and no front end."""
    folder = tmp_path_factory.mktemp("raw") / "models"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "SIZES", SIZES)
        assets = {"words.txt": b"good\nbad\n", "vectors.npy": vectors()}
        publish(folder / "spoken", Linear(), assets=assets, preprocessing=PREPROCESSING, explained=True)
        publish(folder / "features", Linear())
        yield folder


@pytest.fixture(scope="module")
def server(bundles: Path) -> Iterator[Running]:
    with running(Settings(models=bundles)) as started:
        yield started


def ask(server: Running, item: dict[str, Any], model: str = "spoken") -> float:
    answer = server.post("/v1/sentiment", json={**item, "model": model})
    assert answer.status_code == 200, answer.text
    return float(answer.json()["score"])


def test_a_sentence_is_its_words(server: Running) -> None:
    said = ask(server, {"text": "Good? Bad."})
    assert said == ask(server, {"text": [[1, 2], [-1, -2]]})
    assert said != ask(server, {"text": "bad good"})


def test_a_recording_in_every_form(server: Running) -> None:
    features = Bundle.open(server.service.settings.models / "spoken")
    task = server.service.repository.get("spoken").task
    rows = task.preprocess({"audio": RECORDING})["model"]["audio"]  # type: ignore[attr-defined]
    assert features.manifest.preprocessing["front_ends"]["audio"]["kind"] == "logmel"
    wanted = ask(server, {"audio": rows.tolist()})
    assert ask(server, {"audio": ENCODED}) == wanted
    form = {"files": {"audio": ("voice.wav", RECORDING, "audio/wav")}, "data": {"model": "spoken"}}
    assert server.post("/v1/sentiment", **form).json()["score"] == wanted
    query = server.client.post("/v1/sentiment", params={"model": "spoken"}, files={"audio": RECORDING})
    assert query.json()["score"] == wanted
    with_text = server.post("/v1/sentiment", **{**form, "data": {"model": "spoken", "text": "good"}})
    assert with_text.json()["score"] == ask(server, {"audio": ENCODED, "text": "good"}) != wanted


def test_a_request_that_names_no_model_goes_to_the_one_whose_form_it_has(server: Running) -> None:
    for item in ({"text": "good"}, {"audio": ENCODED}):
        answer = server.post("/v1/sentiment", json=item)
        assert (answer.status_code, answer.json()["model"]) == (200, "spoken"), answer.text
        many = server.post("/v1/sentiment", json={"items": [item]}).json()["results"]
        assert many[0]["model"] == "spoken"
    form = server.client.post("/v1/sentiment", files={"audio": RECORDING})
    assert form.json()["model"] == "spoken"
    both = server.post("/v1/sentiment", json={"text": [[1, 2]]})
    assert both.status_code == 404
    assert "features, spoken" in both.json()["detail"]
    other = server.post("/v1/sentiment", json={"text": 5})
    assert other.status_code == 404


def test_explanations_name_the_words_and_the_times(server: Running) -> None:
    asked = {"text": "Good movie, bad", "audio": ENCODED, "model": "spoken"}
    answer = server.post("/v1/sentiment", json={**asked, "explain": True}).json()
    assert answer["tokens"]["text"] == ["good", "movie", "bad"]
    modalities = answer["explanation"]["modalities"]
    assert len(modalities["text"]["contributions"]) == 3
    times = answer["tokens"]["audio"]
    assert len(times) == len(modalities["audio"]["contributions"]) > 5
    assert all(start < end for start, end in times)
    assert server.post("/v1/sentiment", json=asked).json().keys() == answer.keys() - {"tokens", "explanation"}
    features = server.post("/v1/sentiment", json={"text": [[1, 2]], "model": "spoken", "explain": True}).json()
    assert "tokens" not in features
    assert len(features["explanation"]["modalities"]["text"]["contributions"]) == 1
    assert features["explanation"]["modalities"]["audio"]["contributions"] == []


def test_bulk_keeps_items_apart(server: Running) -> None:
    items = [{"text": "good"}, {"audio": ENCODED}, {"text": "xyzzy"}, {"audio": base64.b64encode(b"text").decode()}]
    results = server.post("/v1/sentiment", json={"model": "spoken", "items": items}).json()["results"]
    assert [result["score"] for result in results[:2]] == [ask(server, item) for item in items[:2]]
    assert [result["error"]["field"] for result in results[2:]] == ["items[2].text", "items[3].audio"]
    assert [result["error"]["status"] for result in results[2:]] == [422, 415]


def test_an_npz_of_features_is_still_read(server: Running) -> None:
    arrays = npz(text=np.ones((2, 2)), audio=np.ones((3, 40)))
    answers = {
        model: server.client.post("/v1/sentiment", params={"model": model}, files={"file": arrays})
        for model in ("spoken", "features")
    }
    assert answers["spoken"].json()["score"] == answers["features"].json()["score"]


@pytest.mark.parametrize(
    ("request_", "status", "field"),
    [
        ({"json": {"model": "spoken", "audio": "not base64!"}}, 422, "audio"),
        ({"json": {"model": "spoken", "audio": ""}}, 422, "audio"),
        ({"json": {"model": "spoken", "text": ""}}, 422, "text"),
        ({"json": {"model": "spoken", "text": "good " * 6}}, 413, "text"),
        ({"json": {"model": "features", "text": "good"}}, 422, "text"),
        ({"json": {"model": "features", "text": [[1, 2]], "audio": ENCODED}}, 422, "audio"),
        ({"data": {"model": "spoken"}, "files": {"audio": b"a text"}}, 415, "audio"),
        ({"data": {"model": "spoken"}, "files": {"audio": RECORDING, "picture": b"x"}}, 400, None),
        ({"data": {"model": "spoken", "smell": "sweet"}, "files": {"audio": RECORDING}}, 422, "smell"),
        ({"data": {"model": "features"}, "files": {"audio": RECORDING}}, 400, None),
        ({"data": {"model": "nobody"}, "files": {"audio": RECORDING}}, 404, None),
        ({"json": {"model": "nobody", "text": "good"}}, 404, None),
    ],
)
def test_what_is_refused(server: Running, request_: dict[str, Any], status: int, field: str | None) -> None:
    answer = server.post("/v1/sentiment", **request_)
    assert (answer.status_code, answer.json().get("field")) == (status, field), answer.text


def test_the_client_sends_files_and_sentences(server: Running, tmp_path: Path) -> None:
    (tmp_path / "voice.wav").write_bytes(RECORDING)
    with Client(str(server.client.base_url)) as client:
        for recording in (RECORDING, tmp_path / "voice.wav"):
            answer = client.predict("sentiment", {"audio": recording, "text": "good"}, model="spoken")
            assert answer["score"] == ask(server, {"audio": ENCODED, "text": "good"})
        many = client.predict_many("sentiment", [{"audio": RECORDING}, {"text": "bad"}], model="spoken")
        assert [one["score"] for one in many] == [ask(server, {"audio": ENCODED}), ask(server, {"text": "bad"})]


def test_the_documents_show_both_ways(server: Running) -> None:
    route = server.client.get("/openapi.json").json()["paths"]["/v1/sentiment"]["post"]["requestBody"]["content"]
    assert "base64" in json.dumps(route["application/json"])
    ways = route["multipart/form-data"]["schema"]["anyOf"]
    assert list(ways[0]["properties"]) == ["file"]
    assert ways[1]["properties"]["audio"] == {"type": "string", "format": "binary"}
    example = route["application/json"]["examples"]["spoken"]["value"]
    assert isinstance(example["text"], str)
    assert base64.b64decode(example["audio"])[:4] == b"RIFF"
    ask(server, example)


def test_models_say_what_they_read(server: Running) -> None:
    told = {model["name"]: model for model in server.client.get("/v1/models").json()["models"]}
    assert (told["spoken"]["raw"], told["spoken"]["files"]) == (["text", "audio"], ["audio"])
    assert (told["features"]["raw"], told["features"]["files"]) == ([], [])


def test_items_of_a_file_of_lines(bundles: Path, tmp_path: Path) -> None:
    from wander.__main__ import main

    bundle = bundles / "spoken"
    example = (Bundle.open(bundle).path / EXAMPLE).read_text()
    (tmp_path / "in.jsonl").write_text(f'{{"text": "good"}}\n{example}\n{{"audio": "!"}}\n')
    arguments = ["predict", str(bundle), "--jsonl", "--input", str(tmp_path / "in.jsonl")]
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--output", str(tmp_path / "out.jsonl")])
    assert left.value.code == 1
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert ["score" in line for line in lines] == [True, True, False]
    assert lines[2]["error"]["field"] == "audio"
