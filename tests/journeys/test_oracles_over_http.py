"""The authors' checkpoints the whole way: convert, export, ONNX Runtime, HTTP; against the stored outputs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from export.compose import compose
from export.options import Options
from export.pipeline import export
from tests.journeys.conftest import Start
from tests.oracles import ADAPTER_ONLY, LATE_FUSION, Oracle, difference, needs_oracles
from wander.checkpoints.convert import convert

pytestmark = needs_oracles
LIMIT = 1e-5
FILES = {"adapted": "whole_module.pt", "base": "base_whole_module.pt"}


@pytest.fixture(scope="module")
def client(serve: Start, tmp_path_factory: pytest.TempPathFactory) -> httpx.Client:
    """Every checkpoint of these families, converted, exported and served."""
    work = tmp_path_factory.mktemp("oracles")

    def publish(name: str, path: Path, known: dict[str, Any]) -> None:
        convert(path, work / "converted" / name, known)
        options = Options(max_batch_size=4, explain=False)
        export(compose(work / "converted" / name), work / "models" / name, options)

    for variant in LATE_FUSION:
        oracle = Oracle("wander_late_fusion", variant)
        for kind, file in FILES.items():
            # A whole module tells its heads itself; only the lengths of a host without an adapter must be said.
            known = {"lengths": oracle.sizes["lengths"]} if kind == "base" else {}
            publish(f"{variant}-{kind}", oracle.path(file), known)
    for variant in ADAPTER_ONLY:
        oracle = Oracle("wander_adapter_only", variant)
        publish(variant, oracle.path("state_dict.pt"), oracle.sizes)
    return serve(work / "models")


@pytest.mark.parametrize("variant", LATE_FUSION)
@pytest.mark.parametrize("kind", FILES)
def test_late_fusion(client: httpx.Client, variant: str, kind: str) -> None:
    oracle = Oracle("wander_late_fusion", variant)
    name, outputs = f"{variant}-{kind}", oracle.outputs["output" if kind == "adapted" else "base_output"]
    sentiment = oracle.sizes["out_dim"] == 1
    route = "/v1/sentiment" if sentiment else "/v1/emotion"
    items = [{m: oracle.inputs[m][i].tolist() for m in oracle.sizes["modalities"]} for i in range(len(outputs))]
    bulk = client.post(route, json={"model": name, "items": items}).raise_for_status().json()["results"]
    single = [client.post(route, json={"model": name, **item}).raise_for_status().json() for item in items]
    for answers in (bulk, single):
        if sentiment:
            got = np.array([[answer["score"]] for answer in answers])
            assert difference(got, outputs) <= LIMIT
            assert [a["label"] for a in answers] == ["positive" if o >= 0 else "negative" for o in outputs[:, 0]]
        else:
            got = np.array([list(answer["probabilities"].values()) for answer in answers])
            powers = np.exp(outputs.astype(np.float64))
            assert difference(got, powers / powers.sum(1, keepdims=True)) <= LIMIT
            assert [a["label"] for a in answers] == [f"class_{o.argmax()}" for o in outputs]


@pytest.mark.parametrize("variant", ADAPTER_ONLY)
def test_an_adapter_that_stands_alone(client: httpx.Client, variant: str) -> None:
    oracle = Oracle("wander_adapter_only", variant)
    body = io.BytesIO()
    np.savez(body, **oracle.inputs)
    reply = client.post("/v1/tensors", files={"file": body.getvalue()}, data={"model": variant}).raise_for_status()
    tokens = np.array([answer["outputs"]["tokens"] for answer in reply.json()["results"]])
    assert difference(tokens, oracle.outputs["tokens"]) <= LIMIT


def test_the_models_page_tells_what_was_verified(client: httpx.Client) -> None:
    models = client.get("/v1/models").json()["models"]
    assert {m["name"] for m in models} == {f"{v}-{k}" for v in LATE_FUSION for k in FILES} | set(ADAPTER_ONLY)
    assert all(m["parity"]["passed"] and m["parity"]["max_rel"] <= LIMIT for m in models)


def test_the_serving_process_maps_no_torch(client: httpx.Client) -> None:
    libraries = Path(f"/proc/{client.headers['x-pid']}/maps")
    if not libraries.exists():
        pytest.skip("needs Linux's /proc")
    text = libraries.read_text()
    assert "onnxruntime" in text
    assert "libtorch" not in text


def test_answers_are_json_of_plain_numbers(client: httpx.Client) -> None:
    oracle = Oracle("wander_late_fusion", LATE_FUSION[0])
    item = {m: oracle.inputs[m][0].tolist() for m in oracle.sizes["modalities"]}
    reply = client.post(f"/v1/emotion?model={LATE_FUSION[0]}-adapted", json=item)
    answer = json.loads(reply.text)
    assert set(answer) == {"label", "score", "probabilities", "model", "version", "adapter", "timing"}
    assert set(answer["timing"]) == {"queue", "preprocess", "inference", "postprocess"}
    assert reply.headers["server-timing"].startswith("pre;dur=")
