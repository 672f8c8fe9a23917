"""The recipe end to end, on data so small that it takes seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from wander.adapters.wander import Wander
from wander.checkpoints.folder import load, save
from wander.errors import ConfigError, UsageError
from wander.files import sha256
from wander.tasks import tasks
from wander.training.evaluation import draft_manifest
from wander.training.loop import predict, reproducible
from wander.training.recipes import Trained, recipes
from wander.training.recipes._corpus import Corpus
from wander.training.recipes.sentiment import (
    Sentiment,
    SentimentSettings,
    adapter_config,
    describe,
    fresh_host,
    train_adapted,
    train_host,
)


def quiet(stage: str, epoch: int, epochs: int, loss: float) -> None:
    pass


def train(data: Path, settings: SentimentSettings, seed: int = 0, *, head_only: bool = False) -> Trained:
    return Sentiment().train(data, settings, seed=seed, head_only=head_only)


def saved(trained: Trained, out: Path) -> Path:
    save(trained.host, trained.head, trained.about, out, trained.backbone_id)
    return out


def test_every_recipe_is_of_a_task_and_has_defaults() -> None:
    for name, recipe in recipes:
        assert any(name == task or name.startswith(f"{task}_") for task in tasks.names()), name
        assert recipe.summary
        recipe.Settings()


def test_a_trained_folder_is_whole_and_answers_as_the_host_in_memory(
    tiny_data: Path, tiny_settings: SentimentSettings, tmp_path: Path
) -> None:
    """The test split is absent throughout: training cannot have touched it."""
    assert not (tiny_data / "mosi_test.npz").exists()
    trained = train(tiny_data, tiny_settings)
    out = saved(trained, tmp_path / "out")
    loaded = load(out / "adapter", out / "backbone")
    corpus = Corpus(tiny_data, tiny_settings.length)
    valid = corpus.examples(corpus.valid, loaded.host, loaded.about)
    assert torch.equal(predict(loaded.host, valid), predict(trained.host, valid))
    assert loaded.about.labels == ("negative", "positive")
    assert loaded.about.provenance["weights"] == "trained"
    assert loaded.about.provenance["seed"] == 0
    assert loaded.about.provenance["utterances"] == 40
    assert len(loaded.about.provenance["host"]["videos"]) == 4
    assert loaded.host.adapter_module is not None
    assert loaded.host.adapter_module.warnings() == []


def test_equal_seeds_give_equal_files_and_others_do_not(
    tiny_data: Path, tiny_settings: SentimentSettings, tmp_path: Path
) -> None:
    files = ["adapter/adapter_model.safetensors", "adapter/adapter_config.json", "backbone/model.safetensors"]
    first, second, third = (
        saved(train(tiny_data, tiny_settings, seed), tmp_path / str(number)) for number, seed in enumerate((0, 0, 1))
    )
    for name in files:
        assert sha256(first / name) == sha256(second / name)
        assert sha256(first / name) != sha256(third / name)


def test_the_baseline_stands_on_the_same_frozen_backbone(
    tiny_data: Path, tiny_settings: SentimentSettings, tmp_path: Path
) -> None:
    adapted = saved(train(tiny_data, tiny_settings), tmp_path / "adapter")
    baseline = saved(train(tiny_data, tiny_settings, head_only=True), tmp_path / "head")
    assert sha256(adapted / "backbone/model.safetensors") == sha256(baseline / "backbone/model.safetensors")
    loaded = load(baseline / "adapter", baseline / "backbone")
    assert loaded.about.adapter is None
    assert loaded.about.provenance["trained"] == "head"


@pytest.mark.parametrize("head_only", [False, True])
def test_the_backbone_is_bit_equal_after_training_on_it(
    tiny_data: Path, tiny_settings: SentimentSettings, head_only: bool
) -> None:
    corpus = Corpus(tiny_data, tiny_settings.length)
    host, _ = train_host(corpus, tiny_settings, 0, quiet)
    before = {name: value.clone() for name, value in host.state_dict().items()}
    adapted, _ = train_adapted(corpus, tiny_settings, host, 0, quiet, head_only=head_only)
    for name, value in adapted.split_state()[1].items():
        assert torch.equal(value, before[name]), name
    for name, value in host.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(adapted.is_adapted(name) == p.requires_grad for name, p in adapted.named_parameters())
    assert not torch.equal(adapted.out_layer.weight, host.out_layer.weight)


def test_the_adapter_starts_alive_and_all_of_it_moves(tiny_data: Path, tiny_settings: SentimentSettings) -> None:
    corpus = Corpus(tiny_data, tiny_settings.length)
    with reproducible(0):
        host = fresh_host(corpus, tiny_settings, None)
        adapted = fresh_host(corpus, tiny_settings, adapter_config(tiny_settings, host.config))
        adapter = adapted.adapter
        assert isinstance(adapter, Wander)
        adapter.start_training_(tiny_settings.start_scale)
        assert sum(bool(factor.any()) for factor in adapter.factor_t_list) == len(adapter.factor_t_list) - 1
        before = {name: value.detach().clone() for name, value in adapter.named_parameters()}
        examples = corpus.examples(corpus.train, adapted, describe(corpus))
        optimizer = torch.optim.Adam(adapter.parameters(), lr=1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            F.l1_loss(adapted(*examples.inputs), examples.targets).backward()
            optimizer.step()
    for name, value in adapter.named_parameters():
        assert not torch.equal(value, before[name]), name


def test_the_released_start_never_moves(tiny_data: Path, tiny_settings: SentimentSettings) -> None:
    settings = tiny_settings.model_copy(update={"start_scale": 0.0})
    trained = train(tiny_data, settings)
    assert isinstance(trained.host.adapter_module, Wander)
    assert not any(bool(factor.any()) for factor in trained.host.adapter_module.factor_t_list)
    assert trained.host.adapter_module.warnings()


def test_training_learns(tiny_data: Path, tiny_settings: SentimentSettings) -> None:
    """The label is in the first text feature; a model that had learnt nothing would have the median's error."""
    schedule = {"epochs": 40, "learning_rate": 5e-3, "patience": 40}
    update = {"host": schedule, "adapter": schedule, "length": 2}
    settings = SentimentSettings.model_validate(tiny_settings.model_dump() | update)
    found = train(tiny_data, settings).about.provenance
    with np.load(tiny_data / "mosi_valid.npz") as file:
        constant = float(np.abs(file["label"] - np.median(file["label"])).mean())
    assert found["valid"]["mae"] < 0.75 * constant


def test_the_example_is_an_item_of_the_task_and_none_of_the_data(
    tiny_data: Path, tiny_settings: SentimentSettings
) -> None:
    trained = train(tiny_data, tiny_settings)
    tensors = tasks.get("sentiment")(draft_manifest(trained.about, trained.host), Path()).preprocess(trained.example)[
        "model"
    ]
    assert {name: len(rows) for name, rows in trained.example.items()} == {"text": 3, "audio": 3, "vision": 3}
    with np.load(tiny_data / "mosi_train.npz") as file:
        distances = np.abs(file["text"][:, None] - tensors["text"][None, :3]).max(-1)
    assert distances.min() > 0.01


def test_audio_and_vision_may_be_missing_and_text_may_not(tiny_data: Path, tiny_settings: SentimentSettings) -> None:
    about = describe(Corpus(tiny_data, tiny_settings.length))
    assert about.preprocessing["missing"] == {"audio": "padding", "vision": "padding"}


def test_sizes_that_do_not_fit_are_an_error_that_names_them(tiny_data: Path, tiny_settings: SentimentSettings) -> None:
    with pytest.raises(ConfigError, match="99 tokens"):
        train(tiny_data, tiny_settings.model_copy(update={"down_dim": 99}))
    with pytest.raises(ConfigError, match="num_heads 3"):
        train(tiny_data, tiny_settings.model_copy(update={"num_heads": 3}))


def test_an_absent_validation_split_is_an_error(tiny_data: Path, tiny_settings: SentimentSettings) -> None:
    (tiny_data / "mosi_valid.npz").unlink()
    with pytest.raises(UsageError, match=r"mosi_valid\.npz does not exist"):
        train(tiny_data, tiny_settings)
