"""The food and MWA checkpoints the whole way: convert, export, ONNX Runtime, HTTP; against the stored outputs.

Their inputs are tensors (pixels already normalised, ids), so they go through the task `tensors`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from export.compose import compose
from export.options import Options
from export.pipeline import export
from tests.journeys.conftest import Start
from tests.oracles import ORACLES, Oracle, difference, needs_oracles
from wander.checkpoints.convert import convert

pytestmark = needs_oracles
LIMIT = 1e-5
MWA = sorted(path.name for path in (ORACLES / "mwa_retrieval").glob("*"))
QUICK = ("learnable_scalar", "ln_in_enhance_on", "mode_text")
"""The variants of every run; the others, each as slow as these, are marked so."""
FOOD = [
    ("state_dict.pt", "normal", "logits"),
    ("whole_module.pt", "released_b1", "logits"),
    pytest.param("base_state_dict.pt", "normal", "base_logits", marks=pytest.mark.slow),
    pytest.param("base_state_dict.pt", "released_b1", "base_logits", marks=pytest.mark.slow),
]


@pytest.fixture
def publish(serve: Start, tmp_path: Path) -> Callable[[Path, dict[str, Any]], httpx.Client]:
    """Converts, exports and serves one checkpoint, as the only model."""

    def publish(path: Path, known: dict[str, Any]) -> httpx.Client:
        convert(path, tmp_path / "converted", {**known, "task": "tensors", "preprocessing": {}})
        export(compose(tmp_path / "converted"), tmp_path / "models" / "model", Options(max_batch_size=2))
        return serve(tmp_path / "models")

    return publish


def ask(client: httpx.Client, arrays: dict[str, NDArray[Any]]) -> list[dict[str, Any]]:
    rows = len(next(iter(arrays.values())))
    items = [{name: value[row].tolist() for name, value in arrays.items()} for row in range(rows)]
    reply = client.post("/v1/tensors", json={"items": items}).raise_for_status()
    return [answer["outputs"] for answer in reply.json()["results"]]


@pytest.mark.parametrize("variant", [pytest.param(v, marks=() if v in QUICK else pytest.mark.slow) for v in MWA])
def test_mwa_embeddings(publish: Callable[[Path, dict[str, Any]], httpx.Client], variant: str) -> None:
    oracle = Oracle("mwa_retrieval", variant)
    (checkpoint,) = oracle.folder.glob("*.pth")
    client = publish(checkpoint, {"num_heads": oracle.sizes["num_heads"]})
    inputs = oracle.inputs
    images = [a["image_embedding"] for a in ask(client, {"image": inputs["image"]})]
    assert difference(np.array(images), oracle.outputs["image_embeds"]) <= LIMIT
    text = {name: inputs[name] for name in ("text_ids", "padding_mask")}
    padded = [a["text_embedding"] for a in ask(client, text)]
    assert difference(np.array(padded), oracle.outputs["text_embeds"]) <= LIMIT
    assert difference(np.array(images) @ np.array(padded).T, oracle.outputs["scores"]) <= LIMIT
    for row, wanted in enumerate(oracle.outputs["text_embeds_unpadded"]):
        length = int((inputs["padding_mask"][row] == 0).sum())
        alone = ask(client, {name: value[row : row + 1, :length] for name, value in text.items()})
        assert difference(np.array(alone[0]["text_embedding"]), wanted) <= LIMIT


@pytest.mark.parametrize(("file", "layout", "output"), FOOD)
def test_food_logits(
    publish: Callable[[Path, dict[str, Any]], httpx.Client], file: str, layout: str, output: str
) -> None:
    oracle = Oracle("wander_food_fusion", "e24")
    client = publish(oracle.path(file), {**oracle.sizes, "attention_layout": layout})
    inputs = {
        "image": oracle.inputs["pixel_values"],
        "input_ids": oracle.inputs["input_ids"],
        "attention_mask": oracle.inputs["attention_mask"],
    }
    answers = ask(client, inputs)
    logits = np.array([next(iter(answer.values())) for answer in answers])
    assert difference(logits, oracle.outputs[f"{output}_{layout}"]) <= LIMIT
