"""`explain` over HTTP: what it answers, what it costs those who do not ask, and what refuses it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from serving.cli import predict
from serving.client import Client
from serving.settings import Settings
from tests.serving.building import SIZES, Linear, Running, item, items, npz, publish, random_rows, running
from tests.serving.schema import problems
from wander.errors import InputError

MISSING = {"missing": {"audio": "padding"}, "padding": {"audio": (0.5, -1.0, 2.0)}}
SENTIMENT, EMOTION = Linear("sentiment", seed=1), Linear("emotion", seed=2)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explained") / "models"
    publish(folder / "mosi", SENTIMENT, explained=True, preprocessing=MISSING)
    publish(folder / "iemocap", EMOTION, explained=True)
    publish(folder / "old", SENTIMENT)
    return folder


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Running]:
    with running(Settings(models=models)) as started:
        yield started


def ask(server: Running, task: str, body: dict[str, Any], **query: Any) -> Any:
    answer = server.post(f"/v1/{task}", json=body, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def contributions(linear: Linear, sent: dict[str, Any]) -> dict[str, np.ndarray]:
    """(length, outputs) of every modality of one whole item."""
    found = linear.explain({name: np.array(sent[name], np.float32)[None] for name in SIZES})
    return {name: found[f"contributions.{name}"][0] for name in SIZES}


def test_an_explanation_says_what_each_row_contributed(server: Running) -> None:
    sent = item(3)
    said = ask(server, "sentiment", {**sent, "explain": True, "model": "mosi"})
    plain = ask(server, "sentiment", {**sent, "model": "mosi"})
    assert "explanation" not in plain
    assert said["score"] == pytest.approx(plain["score"], abs=1e-6)
    told = said["explanation"]
    assert (told["target"], told["score"]) == ("score", said["score"])
    assert told["residual_score"] == pytest.approx(float(SENTIMENT.bias[0]))
    assert "label" not in told
    for name, wanted in contributions(SENTIMENT, sent).items():
        modality = told["modalities"][name]
        np.testing.assert_allclose(modality["contributions"], wanted[:, 0], atol=1e-6)
        assert modality["padding"] == 0
        assert modality["total"] == pytest.approx(wanted.sum(), abs=1e-6)


def test_rows_that_were_filled_up_are_told_together(server: Running) -> None:
    sent = item(4)
    short = {"text": sent["text"][:1], "vision": sent["vision"]}
    told = ask(server, "sentiment", {**short, "explain": True, "model": "mosi"})["explanation"]["modalities"]
    filled = {
        "text": [*sent["text"][:1], [0.0] * 4, [0.0] * 4],
        "audio": [MISSING["padding"]["audio"]] * 2,
        "vision": sent["vision"],
    }
    wanted = contributions(SENTIMENT, filled)
    assert [len(told[name]["contributions"]) for name in SIZES] == [1, 0, 4]
    assert told["audio"]["padding"] == told["audio"]["total"] == pytest.approx(wanted["audio"].sum(), abs=1e-6)
    assert told["text"]["contributions"] == pytest.approx(wanted["text"][:1, 0])


def test_of_emotion_the_predicted_class_is_explained_or_the_one_that_is_named(server: Running) -> None:
    sent = item(5)
    said = ask(server, "emotion", {**sent, "explain": True})
    named = {label: ask(server, "emotion", {**sent, "explain": label}) for label in said["probabilities"]}
    assert said["explanation"] == named[said["label"]]["explanation"]
    for number, (label, answer) in enumerate(named.items()):
        told = answer["explanation"]
        assert answer["label"] == said["label"]
        assert (told["target"], told["label"]) == ("logit", label)
        assert told["residual_score"] == pytest.approx(float(EMOTION.bias[number]))
        for name, wanted in contributions(EMOTION, sent).items():
            np.testing.assert_allclose(told["modalities"][name]["contributions"], wanted[:, number], atol=1e-6)


def test_the_query_asks_for_all_items_that_do_not_say_it_themselves(server: Running) -> None:
    first, second = items(2, seed=6)
    body = {"items": [first, {**second, "explain": False}], "model": "mosi"}
    results = ask(server, "sentiment", body, explain="true")["results"]
    assert ["explanation" in result for result in results] == [True, False]
    answer = server.post(
        "/v1/sentiment", params={"explain": "true", "model": "mosi"}, files={"file": npz(**random_rows(2, seed=6))}
    )
    first_again, _ = answer.json()["results"]
    assert first_again["explanation"] == results[0]["explanation"]
    assert "explanation" not in ask(server, "sentiment", first | {"model": "mosi"}, explain="false")


@pytest.mark.parametrize("value", ["yes", "calm", 1, 0, [], {}, ["true"], 1.5])
def test_what_is_no_answer_to_the_question_is_refused(server: Running, value: Any) -> None:
    for task, model in (("sentiment", "mosi"), ("emotion", "iemocap"), ("sentiment", "old")):
        answer = server.post(f"/v1/{task}", json={**item(), "explain": value, "model": model})
        assert (answer.status_code, answer.json()["field"]) == (422, "explain")
    assert "explain must be true or false" in answer.json()["detail"]


def test_a_label_is_a_target_of_emotion_alone(server: Running) -> None:
    refused = server.post("/v1/sentiment", json={**item(), "explain": "positive", "model": "mosi"})
    assert (refused.status_code, refused.json()["field"]) == (422, "explain")


def test_a_bundle_without_the_graph_refuses_and_answers_as_ever(server: Running) -> None:
    answer = server.post("/v1/sentiment", json={**item(), "explain": True, "model": "old"})
    assert (answer.status_code, answer.json()["field"]) == (422, "explain")
    assert "no graph that explains" in answer.json()["detail"]
    assert "score" in ask(server, "sentiment", {**item(), "explain": False, "model": "old"})
    one, other = ask(server, "sentiment", {"items": [{**item(), "explain": True}, item()], "model": "old"})["results"]
    assert one["error"]["field"] == "items[0].explain"
    assert "score" in other


def test_who_does_not_ask_does_not_pay(server: Running) -> None:
    def inferences() -> tuple[int, ...]:
        stats = {
            name: server.client.get(f"/v2/models/{name}/stats").json()["model_stats"][0]["inference_count"]
            for name in ("mosi", "mosi-explain")
        }
        return tuple(stats.values())

    before = inferences()
    ask(server, "sentiment", {"items": items(3), "model": "mosi"})
    assert inferences() == (before[0] + 3, before[1])
    ask(server, "sentiment", {**item(), "explain": True, "model": "mosi"})
    assert inferences() == (before[0] + 3, before[1] + 1)


def test_the_model_keeps_its_name_on_kserve(server: Running) -> None:
    inputs = random_rows(2, seed=7)
    with Client(str(server.client.base_url)) as client:
        np.testing.assert_allclose(client.infer("mosi", inputs)["score"], SENTIMENT(inputs)["score"], atol=1e-5)
        for name, value in client.infer("mosi-explain", inputs).items():
            np.testing.assert_allclose(value, SENTIMENT.explain(inputs)[name], atol=1e-5)


def test_the_client_asks_with_lists_and_with_arrays(server: Running) -> None:
    arrays = {name: value[0] for name, value in random_rows(1, seed=8).items()}
    lists = {name: value.tolist() for name, value in arrays.items()}
    with Client(str(server.client.base_url)) as client:
        one, other = (client.predict("emotion", {**sent, "explain": "sad"})["explanation"] for sent in (arrays, lists))
        assert one == other
        (many,) = client.predict_many("emotion", [{**arrays, "explain": "sad"}])
        assert many["explanation"] == one
        with pytest.raises(InputError) as caught:
            client.predict("emotion", {**arrays, "explain": "calm"})
        assert caught.value.field == "explain"


def test_predict_explains_without_a_server(server: Running, models: Path, tmp_path: Path) -> None:
    sent = [{**one, "explain": True} for one in items(2, seed=9)]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(orjson.dumps(one) for one in sent))
    predict(models / "mosi", str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), jsonl=True)
    lines = (tmp_path / "out.jsonl").read_bytes().splitlines()
    served = ask(server, "sentiment", {"items": sent, "model": "mosi"})["results"]
    assert [orjson.loads(line)["explanation"] for line in lines] == [result["explanation"] for result in served]
    np.savez(tmp_path / "in.npz", **random_rows(2))
    predict(models / "mosi", str(tmp_path / "in.npz"), str(tmp_path / "out.npz"))  # its graph need not be named
    assert set(np.load(tmp_path / "out.npz")) == {"score"}


@pytest.mark.parametrize(("task", "model"), [("sentiment", "mosi"), ("emotion", "iemocap")])
def test_the_document_tells_the_question_and_the_answer(server: Running, task: str, model: str) -> None:
    route = server.client.get("/openapi.json").json()["paths"][f"/v1/{task}"]["post"]
    assert [one["name"] for one in route["parameters"]] == ["explain"]
    asks = route["requestBody"]["content"]["application/json"]["schema"]
    tells = route["responses"]["200"]["content"]["application/json"]["schema"]
    for body in ({**item(), "explain": True}, {"items": [{**item(), "explain": "true"}, item()]}):
        assert problems(asks, body | {"model": model}) == []
        answer = ask(server, task, body | {"model": model})
        assert problems(tells, answer) == []
        if task == "sentiment":
            continue  # one of its models explains nothing, and its answers may hold anything
        inner = answer["results"][0] if "results" in answer else answer
        inner["explanation"]["modalities"]["text"].pop("total")
        assert problems(tells, answer)


def test_openapi_of_a_route_without_options_has_no_parameters(server: Running) -> None:
    assert "parameters" not in server.client.get("/openapi.json").json()["paths"]["/v1/tensors"]["post"]
