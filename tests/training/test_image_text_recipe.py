"""The recipe end to end, on pictures so few and small that it takes seconds."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.captioned import write_captioned
from wander.adapters.multiway import MultiWay
from wander.checkpoints.folder import load, save
from wander.errors import ConfigError, UsageError
from wander.files import sha256
from wander.tasks import tasks
from wander.training.evaluation import draft_manifest, evaluate
from wander.training.recipes import Trained
from wander.training.recipes._captioned_corpus import Captioned, pixels
from wander.training.recipes.image_text import ImageText, ImageTextSettings, described, train_adapted, train_backbone

SIZES = {"embed_dim": 8, "num_heads": 2, "layers": 2, "ffn_dim": 12, "image_size": 16, "patch_size": 8}
PARTS = {"extractor_width": 3, "enhancer_width": 8, "taught_size": 8, "passes": 1}
SOURCES = {"pieces": 60, "more_captions": None, "crops": 2, "described_size": 32, "entries": 10, "descriptors": 8}
TINY: dict[str, Any] = {
    **SIZES,
    **PARTS,
    **SOURCES,
    "vision": {"epochs": 2, "batch_size": 8},
    "language": {"epochs": 2, "batch_size": 8},
    "adapter": {"epochs": 3, "batch_size": 8},
}
EPOCHS = {"vision": 10, "language": 20, "adapter": 10}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Training and validation split, and no test split."""
    return write_captioned(tmp_path / "pictures", {"train": 16, "valid": 6})


@pytest.fixture
def settings() -> ImageTextSettings:
    return ImageTextSettings.model_validate(TINY)


def corpus_of(data: Path, settings: ImageTextSettings) -> Captioned:
    return Captioned(data, settings.image_size, settings.pieces, settings.max_length, None)


def quiet(stage: str, epoch: int, epochs: int, loss: float) -> None:
    pass


def saved(trained: Trained, out: Path) -> Path:
    save(trained.host, trained.head, trained.about, out, trained.backbone_id, trained.assets)
    return out


def test_a_trained_folder_is_whole_and_measures_as_its_provenance_says(
    data: Path, settings: ImageTextSettings, tmp_path: Path
) -> None:
    """The test split is absent throughout: training cannot have touched it."""
    stages = []
    trained = ImageText().train(data, settings, notify=lambda stage, *_: stages.append(stage))
    out = saved(trained, tmp_path / "out")
    loaded = load(out / "adapter", out / "backbone")
    assert list(loaded.assets) == ["captions.spm"]
    assert loaded.about.provenance["weights"] == "trained"
    assert evaluate(out, data, "valid").metrics == pytest.approx(loaded.about.provenance["valid"], abs=1e-4)
    assert stages == ["vision"] * 2 + ["language"] * 2 + ["adapter"] * 3
    assert loaded.host.adapter_module is not None
    assert loaded.host.adapter_module.warnings() == []


def test_equal_seeds_give_equal_files_and_others_do_not(
    data: Path, settings: ImageTextSettings, tmp_path: Path
) -> None:
    first, second, third = (
        saved(ImageText().train(data, settings, seed=seed), tmp_path / str(number))
        for number, seed in enumerate((0, 0, 1))
    )
    for name in ("adapter/adapter_model.safetensors", "adapter/adapter_config.json", "backbone/model.safetensors"):
        assert sha256(first / name) == sha256(second / name)
        assert sha256(first / name) != sha256(third / name)


def test_the_baseline_stands_on_the_same_frozen_backbone(
    data: Path, settings: ImageTextSettings, tmp_path: Path
) -> None:
    adapted = saved(ImageText().train(data, settings), tmp_path / "adapter")
    baseline = saved(ImageText().train(data, settings, head_only=True), tmp_path / "heads")
    assert sha256(adapted / "backbone/model.safetensors") == sha256(baseline / "backbone/model.safetensors")
    loaded = load(baseline / "adapter", baseline / "backbone")
    assert loaded.about.adapter is None
    assert loaded.about.provenance["trained"] == "heads"


@pytest.mark.parametrize("head_only", [False, True])
def test_the_backbone_is_bit_equal_after_training_on_it(
    data: Path, settings: ImageTextSettings, head_only: bool
) -> None:
    corpus = corpus_of(data, settings)
    told, told_valid = described(corpus, settings, 0)
    backbone, _ = train_backbone(corpus, told, told_valid, settings, 0, quiet)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    adapted, report = train_adapted(corpus, told, settings, backbone, 0, quiet, head_only=head_only)
    for name, value in adapted.split_state()[1].items():
        assert torch.equal(value, before[name]), name
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(adapted.is_adapted(name) == p.requires_grad for name, p in adapted.named_parameters())
    assert report["epoch"] > 0


def test_every_part_of_the_adapter_moves(data: Path, settings: ImageTextSettings) -> None:
    """It starts by adding nothing, and must not be stuck there."""
    longer = settings.model_copy(update={"adapter": settings.adapter.model_copy(update={"learning_rate": 1e-2})})
    adapter = ImageText().train(data, longer).host.adapter_module
    assert isinstance(adapter, MultiWay)
    for parts in adapter.parts():
        assert parts.enhancemlp is not None
        assert all(extractor.up_proj.weight.any() for extractor in parts.extractors())
        assert parts.enhancemlp.fc2.weight.any()


def test_training_learns_which_colour_is_which(data: Path, settings: ImageTextSettings) -> None:
    """Four colours among 24 pictures: one of the right colour is found in the first third, by chance halfway."""
    write_captioned(data.parent / "more", {"train": 48, "valid": 24})
    stages = {name: {"epochs": epochs, "batch_size": 16, "learning_rate": 3e-3} for name, epochs in EPOCHS.items()}
    longer = ImageTextSettings.model_validate({**TINY, **stages, "embed_dim": 16})
    found = ImageText().train(data.parent / "more", longer).about.provenance["valid"]
    assert found["text_to_image.mnr"] < 9
    assert found["image_to_text.mdr"] < 9


def test_pixels_are_those_of_the_served_task(data: Path, settings: ImageTextSettings) -> None:
    part = corpus_of(data, settings).valid
    whole = part.crops(1, settings.image_size, seed=0)[:, 0]
    np.testing.assert_allclose(pixels(whole).numpy(), part.images().numpy(), rtol=0, atol=1e-6)


def test_the_example_is_an_item_of_the_task(data: Path, settings: ImageTextSettings, tmp_path: Path) -> None:
    trained = ImageText().train(data, settings)
    for name, content in trained.assets.items():
        (tmp_path / name).write_bytes(content)
    task = tasks.get("image_text")(draft_manifest(trained.about, trained.host), tmp_path)
    item = {**trained.example, "image": base64.b64decode(trained.example["image"])}
    assert set(task.operation("score").preprocess(item)) == {"image", "text"}


def test_unfit_settings_and_data_are_named(data: Path, settings: ImageTextSettings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="num_heads 3"):
        ImageText().train(data, settings.model_copy(update={"num_heads": 3}))
    with pytest.raises(UsageError, match=r"--set more_captions=null"):
        ImageText().train(data, settings.model_copy(update={"more_captions": "absent.csv"}))
    zoo = tmp_path / "mosi"
    zoo.mkdir()
    (zoo / "mosi_train.npz").write_bytes(b"")
    with pytest.raises(UsageError, match="no images with captions"):
        ImageText().train(zoo, settings)
