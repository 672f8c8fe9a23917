"""The food recipe end to end, on pictures of plain colours and recipes of few words, so small that it takes seconds."""

from __future__ import annotations

import base64
import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wander.adapters.wander import Wander
from wander.checkpoints.folder import load, save
from wander.errors import ConfigError, UsageError
from wander.files import sha256
from wander.tasks import tasks
from wander.training.evaluation import draft_manifest, evaluate
from wander.training.loop import predict
from wander.training.recipes import Trained, recipes
from wander.training.recipes._food_corpus import END, PAD, START, FoodCorpus, thinned, tokenizer_json
from wander.training.recipes._food_text import start_text_
from wander.training.recipes.food import (
    TEXT_WIDTH,
    Food,
    FoodSettings,
    fresh_host,
    fused,
    taught,
    train_adapted,
    train_host,
)

WORDS = {"soup": "salt water carrot onion", "cake": "flour sugar egg butter", "salad": "leaf oil tomato vinegar"}
COLOURS = {"soup": (200, 120, 40), "cake": (90, 60, 40), "salad": (40, 180, 60)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training and validation split, and no test split: training cannot open it."""
    folder = tmp_path_factory.mktemp("food")
    write(folder, {"train": 8, "valid": 3})
    return folder


def write(folder: Path, sizes: dict[str, int]) -> None:
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(exist_ok=True)
    images, texts = [], []
    for split, size in sizes.items():
        for label, (name, words) in enumerate(WORDS.items()):
            for number in range(size):
                file, key = f"{name}_{split}_{number}.png", f"{name}{split}{number}"
                pixels = np.clip(np.array(COLOURS[name]) + rng.normal(0, 40, (24, 20, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / "images" / file)
                kept = rng.permutation(words.split())[:3]
                images.append((file, split, label, name, 20, 24, key))
                texts.append((key, label, name, split, name, f"1 cup {kept[0]}; 2 {kept[1]}s, {kept[2]}", "x"))
    for path, header, rows in (
        ("images.csv", "image,split,label,label_name,width,height,recipe_id", images),
        ("recipes.csv", "recipe_id,label,label_name,split,title,ingredients,source", texts),
    ):
        with (folder / path).open("w", newline="", encoding="utf-8") as file_:
            csv.writer(file_).writerows([header.split(","), *rows])


TINY = {
    "image_size": 16,
    "patch_size": 4,
    "centroids": 8,
    "dictionary": {"part": 3, "offsets": [0, 1], "rounds": 2},
    "text_length": 12,
    "views": 1,
    "pairs": 40,
    "down_dim": 3,
    "rank_h": 2,
    "rank_t": 2,
    "adapter": {"epochs": 2},
}
SETTINGS = FoodSettings.model_validate(TINY)


def train(data: Path, settings: FoodSettings = SETTINGS, seed: int = 0, *, head_only: bool = False) -> Trained:
    return Food().train(data, settings, seed=seed, head_only=head_only)


def saved(trained: Trained, out: Path) -> Path:
    save(trained.host, trained.head, trained.about, out, trained.backbone_id, trained.assets)
    return out


def corpus_of(data: Path) -> FoodCorpus:
    return FoodCorpus(data, SETTINGS.image_size, SETTINGS.text_length, SETTINGS.least)


def quiet(stage: str, epoch: int, epochs: int, loss: float) -> None:
    pass


def test_a_trained_folder_is_whole_and_answers_as_the_host_in_memory(data: Path, tmp_path: Path) -> None:
    trained = train(data)
    out = saved(trained, tmp_path / "out")
    loaded = load(out / "adapter", out / "backbone")
    valid = corpus_of(data).valid
    assert torch.equal(predict(loaded.host, valid), predict(trained.host, valid))
    assert loaded.about.labels == ("soup", "cake", "salad")
    assert loaded.about.provenance["weights"] == "trained"
    assert loaded.about.provenance["host"]["recipes"] == 24
    assert loaded.host.adapter_module is not None
    assert loaded.host.adapter_module.warnings() == []
    assert loaded.host.config.model_dump()["attention_layout"] == "normal"
    assert evaluate(out, data, "valid").metrics == pytest.approx(trained.about.provenance["valid"], abs=1e-4)


def test_equal_seeds_give_equal_files_and_others_do_not(data: Path, tmp_path: Path) -> None:
    first, second, third = (saved(train(data, seed=seed), tmp_path / str(n)) for n, seed in enumerate((0, 0, 1)))
    for name in ("adapter/adapter_model.safetensors", "adapter/adapter_config.json", "backbone/model.safetensors"):
        assert sha256(first / name) == sha256(second / name)
        assert sha256(first / name) != sha256(third / name)


def test_the_test_split_changes_nothing(data: Path, tmp_path: Path) -> None:
    """With test rows whose pictures are not there to be opened."""
    other = tmp_path / "data"
    other.mkdir()
    write(other, {"train": 8, "valid": 3, "test": 4})
    for picture in (other / "images").glob("*_test_*"):
        picture.unlink()
    first, second = saved(train(data), tmp_path / "a"), saved(train(other), tmp_path / "b")
    for name in ("adapter/adapter_model.safetensors", "adapter/tokenizer.json", "backbone/model.safetensors"):
        assert sha256(first / name) == sha256(second / name)


def test_the_title_is_not_read(data: Path) -> None:
    assert not set(WORDS) & set(corpus_of(data).vocabulary)


def test_the_baseline_stands_on_the_same_frozen_backbone(data: Path, tmp_path: Path) -> None:
    adapted = saved(train(data), tmp_path / "adapter")
    baseline = saved(train(data, head_only=True), tmp_path / "head")
    assert sha256(adapted / "backbone/model.safetensors") == sha256(baseline / "backbone/model.safetensors")
    about = load(baseline / "adapter", baseline / "backbone").about
    assert about.adapter is None
    assert about.provenance["trained"] == "head"


def test_the_backbone_is_bit_equal_after_training_on_it(data: Path) -> None:
    corpus = corpus_of(data)
    host, _ = train_host(corpus, SETTINGS, 0, quiet)
    before = {name: value.clone() for name, value in host.state_dict().items()}
    adapted, _ = train_adapted(corpus, SETTINGS, host, 0, quiet)
    for name, value in adapted.split_state()[1].items():
        assert torch.equal(value, before[name]), name
    assert all(torch.equal(value, before[name]) for name, value in host.state_dict().items())
    assert all(adapted.is_adapted(name) == p.requires_grad for name, p in adapted.named_parameters())
    assert isinstance(adapted.adapter, Wander)
    assert all(bool(factor.any()) for factor in adapter_factors(adapted.adapter))


def adapter_factors(adapter: Wander) -> list[torch.Tensor]:
    return [*adapter.factor_dim_list, *adapter.factor_t_list]


def test_it_learns_from_both_and_either_may_be_missing(data: Path) -> None:
    """Colours and words each tell the class; three classes, so that guessing gives a third."""
    host, about = (trained := train(data)).host, trained.about
    image, ids, mask = corpus_of(data).valid.inputs
    labels = corpus_of(data).valid.targets
    assert about.preprocessing["missing"] == {"image": "mean", "text": "empty"}
    empty = torch.zeros_like(ids)
    empty[:, 0], empty[:, 1] = START, END
    with torch.no_grad():
        for inputs in (
            (image, ids, mask),
            (torch.zeros_like(image), ids, mask),
            (image, empty, (empty != PAD).long()),
        ):
            assert float((host(*inputs).argmax(1) == labels).float().mean()) > 0.6


def test_a_text_is_a_mean_of_words_in_its_features_alone(data: Path) -> None:
    corpus = corpus_of(data)
    host = fresh_host(corpus, SETTINGS, None)
    start_text_(host.text_encoder, corpus.texts, TEXT_WIDTH)
    words = corpus.texts[0][(corpus.texts[0] > END)]
    swapped = corpus.texts[:2].clone()
    swapped[1] = PAD
    swapped[1, 0], swapped[1, 1 : 1 + len(words)], swapped[1, 1 + len(words)] = START, words.flip(0), END
    swapped[0] = PAD
    swapped[0, 0], swapped[0, 1 : 1 + len(words)], swapped[0, 1 + len(words)] = START, words, END
    with torch.no_grad():
        _, text = host.hidden(torch.zeros(2, 3, 16, 16), swapped, (swapped != PAD).long())
    torch.testing.assert_close(text[0, 0], text[1, 0])
    assert float(text[..., TEXT_WIDTH:].abs().max()) < 1e-4
    assert float(text[0, 0].norm()) == pytest.approx(text.shape[2] ** 0.5, rel=1e-3)


def test_adapter_and_head_are_taught_by_labels_and_the_host(data: Path) -> None:
    corpus = corpus_of(data)
    host, _ = train_host(corpus, SETTINGS, 0, quiet)
    tokens = fused(host, corpus.valid)
    with torch.no_grad():
        answers = torch.softmax(host(*corpus.valid.inputs), 1)
    torch.testing.assert_close(taught(host, tokens, 0.0), answers)
    torch.testing.assert_close(taught(host, tokens, 1.0).argmax(1), corpus.valid.targets)
    torch.testing.assert_close(taught(host, tokens, 0.3).sum(1), torch.ones(len(tokens)))


def test_thinned_texts_close_up() -> None:
    torch.manual_seed(0)
    ids = torch.tensor([[START, 7, 8, 9, END, PAD, PAD]]).repeat(50, 1)
    rows = thinned(ids, 0.5).tolist()
    assert len({tuple(row) for row in rows}) > 4
    for row in rows:
        words = [one for one in row if one > END]
        assert words == sorted(words)
        assert row == [START, *words, END] + [PAD] * (5 - len(words))


def test_the_tokenizer_knows_whole_words_without_numbers_and_plurals() -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json(["2½ Jalapeños; egg", "1 jalapeno, eggs", "rare"], 2))
    assert tokenizer.encode("3 EGGS, (jalapeno) rare").tokens == ["[CLS]", "egg", "jalapeno", "[UNK]", "[SEP]"]


def test_the_example_is_an_item_of_the_task(data: Path, tmp_path: Path) -> None:
    trained = train(data)
    out = saved(trained, tmp_path / "out")
    task = tasks.get("food")(draft_manifest(trained.about, trained.host), out / "adapter")
    item = {**trained.example, "image": base64.b64decode(trained.example["image"])}
    tensors = task.preprocess(item)["model"]
    assert tensors["image"].shape == (3, 16, 16)
    assert (tensors["input_ids"] > END).any()


def test_what_does_not_fit_is_an_error(data: Path, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no pictures with recipes"):
        train(tiny_data)
    with pytest.raises(ConfigError, match="patch_size 5"):
        train(data, SETTINGS.model_copy(update={"patch_size": 5}))
    with pytest.raises(ConfigError, match="999 tokens"):
        train(data, SETTINGS.model_copy(update={"down_dim": 999}))
    write(tmp_path, {"train": 2})
    with pytest.raises(UsageError, match="no split 'valid'"):
        train(tmp_path)


def test_it_is_listed() -> None:
    assert "food" in recipes.names()
