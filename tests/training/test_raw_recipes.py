"""The recipes of raw input end to end, on data so small that it takes seconds, and the data sets that they read."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.conftest import write_split
from wander.backbones.base import run
from wander.checkpoints.folder import Loaded, load, save
from wander.errors import UsageError
from wander.files import sha256
from wander.tasks import Task, tasks
from wander.tasks.front_ends.words import tokens
from wander.training.datasets import load_rows, open_dataset
from wander.training.datasets.ravdess import LABELS
from wander.training.evaluation import draft_manifest, evaluate
from wander.training.recipes import Trained, recipes
from wander.training.recipes._recordings import Changes, changed, moved, stretched
from wander.training.recipes._word_vectors import polarity, vocabulary, word_vectors

GOOD, BAD, OTHER = ("great", "lovely"), ("awful", "boring"), ("the", "movie", "was", "it", "and", "so")
ADAPTER = {"down_dim": 3, "rank_h": 2, "rank_t": 2, "embed_dim": 8, "num_heads": 2, "encoder_layers": 1}
TINY: dict[str, dict[str, Any]] = {
    "sentiment_words": {**ADAPTER, "words": 8, "width": 6, "host": {"epochs": 2}, "adapter": {"epochs": 2}},
    "emotion_sound": {
        **ADAPTER,
        "frames": 4,
        "rows": 5,
        "copies": 2,
        "host": {"epochs": 2, "batch_size": 8},
        "adapter": {"epochs": 2},
    },
}


def write_transcripts(folder: Path) -> None:
    rng = np.random.default_rng(5)
    with (folder / "mosi_transcripts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "split", "label", "transcript"))
        for split in ("train", "valid"):
            with np.load(folder / f"mosi_{split}.npz") as arrays:
                for name, label in zip(arrays["id"].tolist(), arrays["label"].tolist(), strict=True):
                    words = [*rng.choice(OTHER, 3), rng.choice(GOOD if label >= 0 else BAD)]
                    writer.writerow((name, split, label, " ".join(words).upper()))


def write_recordings(folder: Path, split: str, actors: tuple[int, ...], seed: int) -> None:
    """Of every actor and class one recording, whose loud band tells the class."""
    rng = np.random.default_rng(seed)
    parts, rows = [], []
    for actor in actors:
        for label in range(len(LABELS)):
            frames = int(rng.integers(20, 40))
            decibels = rng.normal(-60, 3, (frames, 40))
            decibels[5:-5, 4 * label : 4 * label + 4] += 50
            parts.append((2 * (decibels.clip(-80, 40) + 80)).astype(np.uint8))
            rows.append((frames, label, actor, f"01-{label + 1:02}-{actor:02}"))
    lengths, labels, names, ids = zip(*rows, strict=True)
    np.savez(
        folder / f"ravdess_logmel_{split}.npz",
        logmel_q=np.concatenate(parts),
        length=np.array(lengths, np.int32),
        label=np.array(labels, np.int64),
        actor=np.array(names, np.uint8),
        id=np.array(ids),
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Training and validation split, and no test split, for each recipe."""
    mosi, ravdess = tmp_path_factory.mktemp("mosi"), tmp_path_factory.mktemp("ravdess")
    write_split(mosi, "train", [f"t{i}" for i in range(8)], seed=1)
    write_split(mosi, "valid", ["v0", "v1"], seed=2)
    write_transcripts(mosi)
    write_recordings(ravdess, "train", (1, 2, 3), 1)
    write_recordings(ravdess, "valid", (4,), 2)
    return {"sentiment_words": mosi, "emotion_sound": ravdess}


def train(name: str, data: dict[str, Path], *, head_only: bool = False) -> Trained:
    recipe = recipes.get(name)()
    return recipe.train(data[name], recipe.Settings.model_validate(TINY[name]), head_only=head_only)


def saved(trained: Trained, out: Path) -> Loaded:
    save(trained.host, trained.head, trained.about, out, trained.backbone_id, trained.assets)
    return load(out / "adapter", out / "backbone")


def bound(loaded: Loaded, folder: Path) -> Task:
    return tasks.get(loaded.about.task)(draft_manifest(loaded.about, loaded.host), folder)


@pytest.mark.parametrize("name", TINY)
def test_a_trained_folder_reads_raw_input_and_says_what_was_measured(
    name: str, data: dict[str, Path], tmp_path: Path
) -> None:
    trained = train(name, data)
    loaded = saved(trained, tmp_path / "out")
    report = evaluate(tmp_path / "out", data[name], "valid").metrics
    assert report == pytest.approx(trained.about.provenance["valid"], abs=1e-4)
    task = bound(loaded, tmp_path / "out" / "adapter")
    item = dict(trained.example)
    if name == "emotion_sound":
        import base64

        item["audio"] = base64.b64decode(item["audio"])
    ((graph, arrays),) = task.operation("").preprocess(item).items()
    outputs = run(loaded.host.towers(task.output)[graph], {key: value[None] for key, value in arrays.items()})
    assert np.isfinite(outputs[task.output]).all()
    assert loaded.host.adapter_module is not None
    assert loaded.host.adapter_module.warnings() == []


@pytest.mark.parametrize("name", TINY)
def test_equal_seeds_give_equal_files(name: str, data: dict[str, Path], tmp_path: Path) -> None:
    for out in ("a", "b"):
        saved(train(name, data), tmp_path / out)
    files = [path.relative_to(tmp_path / "a") for path in sorted((tmp_path / "a").rglob("*")) if path.is_file()]
    assert len(files) >= 4
    for file in files:
        assert sha256(tmp_path / "a" / file) == sha256(tmp_path / "b" / file), file


@pytest.mark.parametrize("name", TINY)
def test_the_baseline_has_no_adapter(name: str, data: dict[str, Path]) -> None:
    trained = train(name, data, head_only=True)
    assert trained.host.adapter_module is None
    assert trained.about.provenance["trained"] == "head"


@pytest.mark.parametrize("name", TINY)
def test_training_examples_are_what_the_task_makes_of_the_items(
    name: str, data: dict[str, Path], tmp_path: Path
) -> None:
    """The recipes make tensors of their own, which must be those that are served."""
    trained = train(name, data)
    loaded = saved(trained, tmp_path / "out")
    rows = load_rows(data[name], "valid", bound(loaded, tmp_path / "out" / "adapter"))["model"]
    served = rows.stacked(range(len(rows)))
    if name == "emotion_sound":
        from wander.training.recipes.emotion_sound import EmotionSoundSettings, Recordings

        settings = EmotionSoundSettings.model_validate(TINY[name])
        mine = Recordings(data[name], settings, 0).valid.inputs
    else:
        from wander.training.recipes.sentiment_words import Sentences, SentimentWordsSettings

        mine = Sentences(data[name], SentimentWordsSettings.model_validate(TINY[name])).valid.inputs
    for own, (key, value) in zip(mine, served.items(), strict=True):
        np.testing.assert_array_equal(np.asarray(own), value, err_msg=key)


def test_recipes_say_which_data_they_want(data: dict[str, Path], tmp_path: Path) -> None:
    for name, other in (("sentiment_words", "emotion_sound"), ("emotion_sound", "sentiment_words")):
        with pytest.raises(UsageError, match="holds no"):
            recipes.get(name)().train(data[other], recipes.get(name).Settings())


def test_raw_items_of_the_data_sets(data: dict[str, Path]) -> None:
    mosi, ravdess = (open_dataset(data[name]) for name in TINY)
    said = mosi.load_raw(data["sentiment_words"], "train", ("text", "audio"))
    assert set(said.items[0]) == {"text"}
    assert len(said) == 40
    heard = ravdess.load_raw(data["emotion_sound"], "train", ("audio",))
    assert heard.items[0]["audio"]["logmel"].shape[1] == 40
    assert heard.groups == ["1"] * 8 + ["2"] * 8 + ["3"] * 8
    assert sum(len(item["audio"]["logmel"]) for item in heard.items) > 24 * 20
    for dataset, folder, field in ((mosi, data["sentiment_words"], "audio"), (ravdess, data["emotion_sound"], "text")):
        with pytest.raises(UsageError, match="nothing raw"):
            dataset.load_raw(folder, "train", (field,))
        with pytest.raises(UsageError):
            dataset.load_raw(folder, "test", ("text", "audio"))
    with pytest.raises(UsageError, match="front end"):
        ravdess.load(data["emotion_sound"], "train", ())


def test_word_vectors_of_words_in_like_places_are_alike() -> None:
    texts = [tokens(f"the {noun} {verb} here") for noun in ("cat", "dog") for verb in ("sat", "ran", "ate")] * 3
    texts += [tokens(f"{noun} of {number} euros") for noun in ("price", "cost") for number in ("two", "ten")] * 3
    words = vocabulary(texts, 2)
    vectors = word_vectors(texts, words, 4, 3)
    assert vectors.shape == (len(words) + 1, 4)
    assert not vectors[0].any()
    of = {word: row / np.linalg.norm(row) for word, row in zip(words, vectors[1:], strict=True)}
    assert of["cat"] @ of["dog"] > 0.9 > of["cat"] @ of["price"]


def test_words_that_few_have_are_left_out() -> None:
    assert vocabulary([["a", "a", "b"], ["b", "c"]], 2) == ["b"]


def test_polarity_is_a_ridge_regression() -> None:
    texts = [["good", "it"], ["it", "bad", "bad"], ["good", "good"], ["odd"], ["it"]]
    words, targets = ["bad", "good", "it"], np.array([2, -3, 1, 0.5, 0], np.float32)
    found = polarity(texts, words, targets, 0.5)
    assert found[1] > 0 > found[0]
    having = np.array([[word in text for word in words] for text in texts], float)
    left = targets - targets.mean() - (having - having.mean(0)) @ found
    np.testing.assert_allclose((having - having.mean(0)).T @ left, 0.5 * found, atol=1e-6)


def test_a_training_sentence_does_not_know_its_own_score(data: dict[str, Path], tmp_path: Path) -> None:
    """Other scores of one video change the polarities that others read, and not those that it reads itself."""
    from wander.training.recipes.sentiment_words import Sentences, SentimentWordsSettings

    folder = data["sentiment_words"]
    with (folder / "mosi_transcripts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for path in folder.glob("*.npz"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "mosi_transcripts.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        for row in rows:
            label = 3 - float(row["label"]) if row["id"].startswith("t0_") else row["label"]
            writer.writerow(row | {"label": label})
    settings = SentimentWordsSettings.model_validate({**TINY["sentiment_words"], "folds": 8})
    before, after = (Sentences(where, settings) for where in (folder, tmp_path))
    own = np.array([row["id"].startswith("t0_") for row in rows if row["split"] == "train"])
    assert 0 < own.sum() < len(own)
    one, other = (sentences.train.inputs[0].numpy() for sentences in (before, after))
    np.testing.assert_array_equal(one[..., 1:], other[..., 1:])
    # All of them are divided by one deviation, which may have changed.
    one, other = (rows[..., 0] / np.linalg.norm(rows[own, :, 0]) for rows in (one, other))
    np.testing.assert_allclose(one[own], other[own], atol=1e-5)
    assert np.abs(one[~own] - other[~own]).max() > 1e-2


def test_changed_recordings() -> None:
    rng = np.random.default_rng(0)
    recording = rng.normal(-40, 5, (60, 40)).astype(np.float32)
    recording[20:40, 5] = 10
    for _ in range(20):
        other = changed(recording, Changes(), 60.0, rng)
        assert other.dtype == np.float32
        assert other.shape[1] == 40
        assert 47 <= len(other) <= 76
        assert np.isfinite(other).all()
    assert np.abs(stretched(recording, 1.0) - recording).max() < 1e-4
    assert moved(recording, 2.0)[30].argmax() == 7
    assert np.abs(moved(recording, 0.0) - recording).max() < 1e-4
