"""MMT's checkpoints the whole way: convert, export, ONNX Runtime, HTTP, index; against the stored similarities."""

from __future__ import annotations

import io
import json
import shutil
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from export.compose import compose
from export.options import Options
from export.pipeline import export
from tests.journeys.conftest import Start
from tests.oracles import MMT, Oracle, difference, needs_oracles
from wander.bundle import MANIFEST
from wander.tasks.text_video import similarities

pytestmark = needs_oracles
LIMIT = 1e-5
SETTINGS = {"keep": "sims_keep_missing_true", "drop": "sims_keep_missing_false"}


@pytest.fixture(
    scope="module", params=[pytest.param(v, marks=pytest.mark.slow if "captions" in v else ()) for v in MMT]
)
def served(
    request: pytest.FixtureRequest, serve: Start, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Oracle, httpx.Client]:
    """One checkpoint, served once as its run compared and once without the experts that a video lacks."""
    oracle, work = Oracle("mmt", request.param), tmp_path_factory.mktemp(request.param)
    host = compose(oracle.path("trained_model.pth"), None, {"keep_missing_modalities": True})
    export(host, work / "models" / "keep", Options(max_batch_size=4))
    # The graphs are the same; how they are compared stands in the manifest alone.
    shutil.copytree(work / "models" / "keep", work / "models" / "drop")
    path = work / "models" / "drop" / "1" / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["preprocessing"]["keep_missing_modalities"] = False
    path.write_text(json.dumps(manifest))
    return oracle, serve(work / "models", "--indexes", str(work / "indexes"))


def captions(oracle: Oracle) -> list[dict[str, Any]]:
    """As a client with token ids of its own sends them: without padding."""
    ids, mask = np.moveaxis(oracle.inputs["token_ids"].reshape(-1, 30, 2), -1, 0)
    return [{"token_ids": row[m > 0].astype(int).tolist()} for row, m in zip(ids, mask, strict=True)]


def videos(oracle: Oracle) -> list[dict[str, Any]]:
    """As a client with features of its own sends them: no padding, no missing experts."""
    inputs, found = oracle.inputs, []
    for row in range(oracle.sizes["batch"]):
        experts = {}
        for name in oracle.sizes["experts"]:
            if count := int(inputs[f"features_ind.{name}"][row].sum()):
                experts[name] = {
                    "features": inputs[f"features.{name}"][row, :count].tolist(),
                    "times": inputs[f"features_t.{name}"][row, :count].tolist(),
                    "maximum": inputs[f"features_maxpool.{name}"][row].tolist(),
                }
        found.append({"video": {"experts": experts}})
    return found


def ask(client: httpx.Client, operation: str, model: str, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    reply = client.post(f"/v1/text-video/{operation}", json={"model": model, "items": items}).raise_for_status()
    results: list[dict[str, Any]] = reply.json()["results"]
    return results


@pytest.mark.parametrize("setting", SETTINGS)
def test_scores_are_the_stored_similarities(served: tuple[Oracle, httpx.Client], setting: str) -> None:
    oracle, client = served
    texts, clips = captions(oracle), videos(oracle)
    answers = ask(client, "score", setting, [{**text, **clip} for text in texts for clip in clips])
    scores = np.array([answer["score"] for answer in answers]).reshape(len(texts), len(clips))
    assert difference(scores, oracle.outputs[SETTINGS[setting]]) <= LIMIT
    for answer in answers:
        parts = answer["experts"].values()
        assert abs(sum(one["weight"] * one["similarity"] for one in parts) - answer["score"]) < 1e-9


@pytest.mark.parametrize("setting", SETTINGS)
def test_products_of_embeddings_are_the_stored_similarities(served: tuple[Oracle, httpx.Client], setting: str) -> None:
    oracle, client = served
    text, video = (ask(client, "embed", setting, items) for items in (captions(oracle), videos(oracle)))
    arrays: list[NDArray[Any]] = [
        np.array([a["embedding"] for a in text]),
        np.array([list(a["weights"].values()) for a in text]),
        np.array([a["embedding"] for a in video]),
        np.array([list(a["available"].values()) for a in video], np.float64),
    ]
    scores = similarities(*arrays, keep_missing=setting == "keep")
    assert difference(scores, oracle.outputs[SETTINGS[setting]]) <= LIMIT
    if setting == "keep":
        assert difference(arrays[0] @ arrays[2].T, oracle.outputs[SETTINGS[setting]]) <= LIMIT


def test_the_models_page_names_what_the_towers_give(served: tuple[Oracle, httpx.Client]) -> None:
    _, client = served
    graphs = client.get("/v1/models/keep").json()["graphs"]
    assert set(graphs) == {"text", "video"}
    assert [one["name"] for one in graphs["text"]["outputs"]] == ["text_embedding", "text_weights"]
    assert [one["name"] for one in graphs["video"]["outputs"]] == ["video_embedding", "availability"]


@pytest.mark.parametrize("setting", SETTINGS)
def test_videos_are_found_by_captions_and_captions_by_videos(served: tuple[Oracle, httpx.Client], setting: str) -> None:
    oracle, client = served
    expected = oracle.outputs[SETTINGS[setting]]
    kept = {f"videos-{setting}": videos(oracle), f"captions-{setting}": captions(oracle)}
    for index, items in kept.items():
        for number, item in enumerate(items):
            body = {**item, "model": setting, "metadata": {"number": number}}
            client.put(f"/v1/retrieval/{index}/items/{number}", json=body).raise_for_status()
    of_videos, of_captions = kept
    for index, asking, scores in (
        (of_videos, kept[of_captions], expected),
        (of_captions, kept[of_videos], expected.T),
    ):
        for row, item in enumerate(asking):
            reply = client.post(f"/v1/retrieval/{index}/search", json={**item, "top_k": 100}).raise_for_status()
            found = np.zeros(scores.shape[1])
            for hit in reply.json()["hits"]:
                found[hit["metadata"]["number"]] = hit["score"]
            assert difference(found, scores[row]) <= LIMIT


def test_videos_come_as_arrays_too(served: tuple[Oracle, httpx.Client]) -> None:
    """The same items, in one .npz, make the same vectors; but a row of nothing is no video."""
    oracle, client = served
    items = [item for item in videos(oracle) if item["video"]["experts"]]
    arrays: dict[str, NDArray[Any]] = {"id": np.array([str(n) for n in range(len(items))])}
    for name in oracle.sizes["experts"]:
        for field in ("features", "times", "maximum"):
            given = [item["video"]["experts"].get(name, {}).get(field) for item in items]
            known = [np.asarray(value, np.float32) for value in given if value is not None]
            if known:
                rows = max(len(value) for value in known)
                array = np.full((len(items), rows, *known[0].shape[1:]), np.nan, np.float32)
                for number, value in enumerate(given):
                    if value is not None:
                        array[number, : len(value)] = value
                arrays[f"video.experts.{name}.{field}"] = array
    for _ in range(2):
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        reply = client.put(
            "/v1/retrieval/arrays/items?model=keep",
            content=file.getvalue(),
            headers={"content-type": "application/x-npz"},
        )
        results = reply.raise_for_status().json()["results"]
        assert [one["error"] for one in results if "error" in one] == []
    for number, item in enumerate(items):
        client.put(f"/v1/retrieval/lists/items/{number}", json={**item, "model": "keep"}).raise_for_status()
    for caption in captions(oracle):
        hits = [
            client.post(f"/v1/retrieval/{index}/search", json={**caption, "top_k": 100}).json()["hits"]
            for index in ("arrays", "lists")
        ]
        assert [hit["id"] for hit in hits[0]] == [hit["id"] for hit in hits[1]]
        assert difference(*(np.array([hit["score"] for hit in some]) for some in hits)) <= LIMIT


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"text": "a cat"}, "text"),
        ({"token_ids": [10**6]}, "token_ids"),
        ({"video": {"experts": {"smell": {}}}}, "video.experts.smell"),
        ({"video": {"experts": {"s3d": {"features": [[1.0]]}}}}, "video.experts.s3d.features"),
    ],
)
def test_a_wrong_item_is_an_answer_of_its_own(
    served: tuple[Oracle, httpx.Client], item: dict[str, Any], field: str
) -> None:
    oracle, client = served
    first, second = ask(client, "embed", "keep", [item, captions(oracle)[0]])
    assert first["error"]["status"] == 422
    assert field in json.dumps(first["error"])
    assert "embedding" in second
