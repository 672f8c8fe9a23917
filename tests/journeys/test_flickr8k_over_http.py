"""The shipped image-text model on the test split of Flickr8k, asked over HTTP, against offline torch."""

from __future__ import annotations

import base64
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from export.compose import compose
from export.options import Options
from export.pipeline import export
from tests.journeys.conftest import Start
from tests.oracles import SHARED
from wander.backbones.base import run
from wander.bundle import Bundle
from wander.tasks import tasks
from wander.tasks._retrieval import ranks
from wander.training.datasets import load_rows, open_dataset
from wander.training.evaluation import answered, evaluate

ROOT = Path(__file__).resolve().parents[2]
ZOO = ROOT / "zoo" / "flickr8k-image-text"
DATA = SHARED / "data" / "flickr8k"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the folder shared/data/flickr8k is not beside the project")

AT_ONCE = 64
LIMIT = 1e-5
FLOOR = 0.32
"""R@10 from text to image of a linear map from histograms of colours and gradients."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    models = tmp_path_factory.mktemp("flickr8k") / "models"
    return export(compose(ZOO), models / ZOO.name, Options())


def embed(client: httpx.Client, items: list[dict[str, str]]) -> NDArray[np.float64]:
    found = []
    for at in range(0, len(items), AT_ONCE):
        reply = client.post("/v1/image-text/embed", json={"items": items[at : at + AT_ONCE]}).raise_for_status()
        found += [answer["embedding"] for answer in reply.json()["results"]]
    return np.array(found)


def test_served_ranks_are_those_of_offline_torch_and_above_the_floor(serve: Start, bundle: Bundle) -> None:
    items = open_dataset(DATA).load(DATA, "test", ()).items
    images = [{"image": base64.b64encode(item["image"]).decode()} for item in items if "image" in item]
    texts = [{"text": item["text"]} for item in items if "text" in item]
    client = serve(bundle.path.parents[1])
    served = {"image": embed(client, images), "text": embed(client, texts)}
    assert (len(served["image"]), len(served["text"])) == (103, 515)

    task = tasks.get("image_text")(bundle.manifest, bundle.path)
    rows = load_rows(DATA, "test", task)
    towers = compose(ZOO).host.towers(task.output)
    offline = {
        side: answered(rows[side], lambda batch, side=side: run(towers[side], batch), 64)[f"{side}_embedding"]
        for side in ("image", "text")
    }
    for side, vectors in served.items():
        np.testing.assert_allclose(vectors, offline[side], rtol=0, atol=LIMIT)

    own = rows["text"].labels[:, None] == rows["image"].labels
    score, reference = (v["text"].astype(np.float64) @ v["image"].T for v in (served, offline))
    for found, wanted, mine in ((score, reference, own), (score.T, reference.T, own.T)):
        # Where rounding is all that parts a stranger from the best own one, either may stand before the other.
        rounding = np.abs(found - wanted).max()
        assert rounding < LIMIT
        margin = 2 * rounding * ~mine
        low, high = ranks(wanted - margin, mine), ranks(wanted + margin, mine)
        assert ((low <= ranks(found, mine)) & (ranks(found, mine) <= high)).all()
        assert (low == high).mean() > 0.95

    outputs = {side: {f"{side}_embedding": vectors} for side, vectors in served.items()}
    metrics = task.joint_metrics(outputs, {side: rows[side].labels for side in served})
    card = (ZOO / "README.md").read_text(encoding="utf-8")
    for way in ("text_to_image", "image_to_text"):
        row = " | ".join(f"{metrics[f'{way}.{name}']:.3f}" for name in ("r1", "r5", "r10"))
        assert f"| {way.replace('_', ' ')} | {row} |" in card
    assert metrics["text_to_image.r10"] > FLOOR


def test_checkpoint_and_bundle_have_the_same_metrics(bundle: Bundle) -> None:
    assert evaluate(bundle.path, DATA).metrics == pytest.approx(evaluate(ZOO, DATA).metrics, abs=2e-3)
