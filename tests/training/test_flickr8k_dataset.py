"""Images with captions: items of both sides, and the metrics of a host on them against a computation by hand."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from export.compose import compose
from export.options import Options
from export.pipeline import export
from tests.oracles import SHARED
from tests.training.captioned import OWN, host, text_assets, write_captioned
from wander.checkpoints.folder import save
from wander.errors import UsageError
from wander.tasks import tasks
from wander.training.datasets import load_rows, open_dataset
from wander.training.evaluation import draft_manifest, evaluate

DATA = SHARED / "data" / "flickr8k"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_captioned(tmp_path / "pictures", {"train": 6, "valid": 3, "test": 5})


@pytest.fixture
def checkpoint(tiny: Path, tmp_path: Path) -> Path:
    model, about = host()
    save(model, {}, about, tmp_path / "checkpoint", "random", text_assets(tiny))
    return tmp_path / "checkpoint"


def test_items_are_images_then_captions_and_labels_say_what_belongs_together(tiny: Path) -> None:
    split = open_dataset(tiny).load(tiny, "valid", ())
    assert [sorted(item) for item in split.items] == [["image"]] * 3 + [["text"]] * 6
    assert split.labels.tolist() == [0, 1, 2, 0, 0, 1, 1, 2, 2]
    assert split.ids[:4] == ["valid0.png", "valid1.png", "valid2.png", "valid0.png#0"]
    assert len(set(split.ids)) == len(split)
    assert split.groups == [split.groups[label] for label in split.labels]


def test_an_unknown_split_and_a_missing_image_are_refused(tiny: Path) -> None:
    with pytest.raises(UsageError, match="no split 'dev'; splits in this folder: test, train, valid"):
        open_dataset(tiny).load(tiny, "dev", ())
    (tiny / "images" / "test3.png").unlink()
    with pytest.raises(UsageError, match=r"no whole data set.*test3\.png"):
        open_dataset(tiny).load(tiny, "test", ())
    (tiny / "captions.csv").write_text("image,caption\na.png,a dog\n")
    with pytest.raises(UsageError, match=r"no whole data set.*split"):
        open_dataset(tiny).load(tiny, "test", ())


def test_every_graph_gets_its_rows(tiny: Path) -> None:
    model, about = host()
    assets = tiny.parent / "assets"
    assets.mkdir()
    for name, content in text_assets(tiny).items():
        (assets / name).write_bytes(content)
    rows = load_rows(tiny, "test", tasks.get("image_text")(draft_manifest(about, model), assets))
    assert {name: len(found) for name, found in rows.items()} == {"image": 5, "text": 10}
    assert len(rows["text"].shapes()) > 1
    assert sorted(chain.from_iterable(rows["text"].shapes().values())) == list(range(10))


def by_hand(checkpoint: Path, data: Path) -> dict[str, float]:
    """One item at a time, and ranks from sorted lists."""
    loaded = compose(checkpoint)
    embed = tasks.get("image_text")(draft_manifest(loaded.about, loaded.host), checkpoint / "adapter").operation(
        "embed"
    )
    split = open_dataset(data).load(data, "test", ())
    vectors: dict[str, list[np.ndarray]] = {"image": [], "text": []}
    for item in split.items:
        ((name, tensors),) = embed.preprocess(item).items()
        inputs = [torch.from_numpy(value.copy())[None] for value in tensors.values()]
        with torch.no_grad():
            vectors[name].append(loaded.host.towers("")[name].module(*inputs)[0].double().numpy())
    images, texts = vectors["image"], vectors["text"]
    to_image = [
        1 + sum(text @ image >= text @ images[i // OWN] for j, image in enumerate(images) if j != i // OWN)
        for i, text in enumerate(texts)
    ]
    to_text = []
    for i, image in enumerate(images):
        order = sorted(range(len(texts)), key=lambda j: -(image @ texts[j]))
        to_text.append(1 + next(place for place, j in enumerate(order) if j // OWN == i))
    return {"text_to_image.mnr": float(np.mean(to_image)), "image_to_text.mnr": float(np.mean(to_text))}


def test_metrics_are_those_of_a_computation_by_hand(checkpoint: Path, tiny: Path) -> None:
    found = evaluate(checkpoint, tiny)
    assert (found.task, found.engine, found.rows, found.n) == ("image_text", "torch", {"image": 5, "text": 10}, 15)
    assert {name: found.metrics[name] for name in by_hand(checkpoint, tiny)} == by_hand(checkpoint, tiny)


def test_a_bundle_measures_as_its_checkpoint_and_keeps_rows_of_the_data(
    checkpoint: Path, tiny: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    bundle = export(compose(checkpoint), tmp_path / "models" / "tiny", Options(data=tiny, max_batch_size=4))
    assert evaluate(bundle.path, tiny).metrics == pytest.approx(evaluate(checkpoint, tiny).metrics, abs=1e-6)
    samples = bundle.parity["samples"]
    assert samples["image"] == {"source": "pictures, split test", "rows": 5}
    assert samples["text"]["source"] == "pictures, split test, items of the commonest size"
    assert not bundle.parity["metrics"]


def test_a_model_of_another_task_is_refused(tiny: Path) -> None:
    zoo = Path(__file__).parents[2] / "zoo" / "mosi-sentiment"
    with pytest.raises(UsageError, match=r"item test0\.png: "):
        evaluate(zoo, tiny)


@pytest.mark.skipif(not DATA.is_dir(), reason="the folder shared/data/flickr8k is not beside the project")
def test_the_real_data_set() -> None:
    groups = {}
    for name, images in (("train", 753), ("valid", 113), ("test", 103)):
        split = open_dataset(DATA).load(DATA, name, ())
        assert [sum(side in item for item in split.items) for side in ("image", "text")] == [images, 5 * images]
        groups[name] = set(split.groups)
    assert not groups["train"] & groups["valid"]
    assert not (groups["train"] | groups["valid"]) & groups["test"]
