"""Video files the whole way: uploaded to a real server, watched by extractors, embedded, indexed and found."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from export.compose import compose
from export.options import Options
from export.pipeline import export
from serving.protocols.base import STATUS
from tests.extractors.hostile_videos import hostile_videos
from tests.extractors.making import video
from tests.extractors.models import EXTRACTORS, WIDTHS, checkpoint
from tests.journeys.conftest import Start
from wander.extractors import VideoLimits, Watching

EMBED = "/v1/text-video/embed"


@pytest.fixture(scope="module")
def client(serve: Start, tmp_path_factory: pytest.TempPathFactory) -> httpx.Client:
    """`watching` makes its features of files, `blind` has no extractors."""
    work = tmp_path_factory.mktemp("videos")
    for name, extractors in (("watching", EXTRACTORS), ("blind", {})):
        export(compose(checkpoint(work / name, extractors)), work / "models" / name, Options(max_batch_size=2))
    return serve(work / "models", "--indexes", str(work / "indexes"))


def embedded(client: httpx.Client, **request: Any) -> dict[str, Any]:
    answer: dict[str, Any] = client.post(EMBED, **request).raise_for_status().json()
    return answer


def test_a_file_answers_as_its_features_do(client: httpx.Client) -> None:
    data = video(30, tone=440)
    form = embedded(client, files={"video": ("a.mp4", data)}, data={"model": "watching"})
    plain = embedded(client, json={"model": "watching", "video": base64.b64encode(data).decode()})
    features = {name: one.item() for name, one in Watching(EXTRACTORS, Path(), VideoLimits())(data).items()}
    experts = {name: {field: value.tolist() for field, value in one.items()} for name, one in features.items()}
    sent = embedded(client, json={"model": "watching", "video": {"experts": experts}})
    assert form["available"] == {"colours": True, "motion": True, "sound": True}
    np.testing.assert_array_equal(form["embedding"], plain["embedding"])
    np.testing.assert_allclose(form["embedding"], sent["embedding"], atol=1e-6)


def test_an_expert_that_a_file_lacks_is_missing(client: httpx.Client) -> None:
    silent = embedded(client, files={"video": video(30)}, data={"model": "watching"})
    still = embedded(client, files={"video": video(1)}, data={"model": "watching"})
    assert silent["available"] == {"colours": True, "motion": True, "sound": False}
    assert still["available"] == {"colours": True, "motion": False, "sound": False}


def test_a_text_and_a_file_have_a_score(client: httpx.Client) -> None:
    form = {"model": "watching", "text": "a square moves"}
    reply = client.post("/v1/text-video/score", data=form, files={"video": video()}).raise_for_status().json()
    assert set(reply["experts"]) == set(WIDTHS)
    items = [{"text": "a square", "video": base64.b64encode(video()).decode()}, {"text": "a", "video": "bm9uZQ=="}]
    results = client.post("/v1/text-video/score", json={"model": "watching", "items": items}).json()["results"]
    assert "score" in results[0]
    assert results[1]["error"]["field"] == "items[1].video"


def test_a_model_without_extractors_says_what_to_send(client: httpx.Client) -> None:
    reply = client.post(EMBED, files={"video": video()}, data={"model": "blind"})
    assert (reply.status_code, reply.json()["field"]) == (422, "video")
    assert "colours, motion, sound" in reply.json()["detail"]
    assert "features" in reply.json()["detail"]
    schema = client.get("/openapi.json").json()["paths"][EMBED]["post"]["requestBody"]["content"]
    assert schema["multipart/form-data"]["schema"]["properties"]["video"]["format"] == "binary"


@pytest.mark.parametrize("value", ["no base64!", 7, [1], True])
def test_what_is_neither_file_nor_features_is_named(client: httpx.Client, value: object) -> None:
    reply = client.post(EMBED, json={"model": "watching", "video": value})
    assert (reply.status_code, reply.json()["field"]) == (422, "video")
    reply = client.post(EMBED, data={"model": "watching", "video": "text"}, files={"other": b""})
    assert reply.status_code == 422


def test_every_hostile_file_gets_its_answer_and_the_server_stays_up(client: httpx.Client) -> None:
    wrong = []
    for case in hostile_videos():
        reply = client.post(EMBED, files={"video": ("clip.mp4", case.data)}, data={"model": "watching"})
        # This model hears, too: sound alone is enough for it.
        heard = case.expected != "ok" and "sound alone" in case.name
        expected = 200 if heard or case.expected == "ok" else STATUS[case.expected]
        if reply.status_code != expected or (expected != 200 and reply.json()["field"] != "video"):
            wrong.append(f"{case.name}: {reply.status_code} for {expected}: {reply.text[:200]}")
    assert not wrong, "\n".join(wrong)
    assert client.get("/readyz").status_code == 200


def test_files_go_into_an_index_and_are_found(client: httpx.Client, tmp_path: Path) -> None:
    clips = {"one.mp4": video(30), "two.avi": video(20, kind="avi", size=(64, 48)), "three.webm": video(9, kind="webm")}
    for name, data in clips.items():
        (tmp_path / name).write_bytes(data)
    url = str(client.base_url)
    run = [sys.executable, "-m", "wander", "index"]
    command = [*run, "add", "clips", *map(str, tmp_path.iterdir()), "--model", "watching", "--url", url, "--json"]
    added = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)
    assert added == {"index": "clips", "added": 3, "failed": []}
    for name in clips:
        command = [*run, "search", "clips", "--video", str(tmp_path / name), "--url", url, "--json"]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)
        assert found["hits"][0]["id"] == name
        assert found["hits"][0]["modality"] == "video"
    by_words = client.post("/v1/retrieval/clips/search", json={"text": "a square", "top_k": 2}).raise_for_status()
    assert len(by_words.json()["hits"]) == 2
    put = client.put("/v1/retrieval/clips/items/four", files={"video": video(5)}, data={"metadata": '{"n": 4}'})
    assert put.raise_for_status().json()["metadata"] == {"n": 4}
    broken = client.put("/v1/retrieval/clips/items/five", files={"video": b"none"})
    assert (broken.status_code, broken.json()["field"]) == (422, "video")
