"""Items: which utterances are in a sequence, in which order, and that they become tensors as they do when served."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.training.conftest import WIDTHS
from wander.errors import InputError, UsageError
from wander.signature import TensorSpec
from wander.tasks import tasks
from wander.training.datasets import arrays, datasets, load_rows, open_dataset
from wander.training.evaluation import draft_manifest
from wander.training.recipes._corpus import Corpus
from wander.training.recipes.sentiment import SentimentSettings, describe, fresh_host

FIELDS = {"text": "text", "audio": "audio", "vision": "video"}


def specs(length: int, widths: dict[str, int]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=n, dtype="float32", dims=("batch", length, width)) for n, width in widths.items())


def tiny_specs(length: int) -> tuple[TensorSpec, ...]:
    return specs(length, {name: WIDTHS[field] for name, field in FIELDS.items()})


def test_every_layout_says_what_it_is() -> None:
    for _, kind in datasets:
        assert kind.layout
        assert kind.source


def test_an_unknown_layout_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"mosi: mosi_train\.npz"):
        open_dataset(tmp_path)
    with pytest.raises(UsageError, match="not a folder"):
        open_dataset(tmp_path / "absent")


def test_modalities_have_the_names_of_the_host(tiny_data: Path) -> None:
    assert open_dataset(tiny_data).widths(tiny_data) == {"text": 6, "audio": 3, "vision": 4}


def test_ids_labels_and_groups_are_those_of_the_file(tiny_data: Path) -> None:
    split = open_dataset(tiny_data).load(tiny_data, "train", tiny_specs(4))
    with np.load(tiny_data / "mosi_train.npz") as file:
        assert split.ids == file["id"].tolist()
        assert split.groups == file["video_id"].tolist()
        np.testing.assert_array_equal(split.labels, file["label"])
    assert len(set(split.ids)) == len(split) == 40


@pytest.mark.parametrize("length", [1, 3, 9])
def test_a_sequence_is_the_utterance_then_those_before_then_those_after(tiny_data: Path, length: int) -> None:
    split = open_dataset(tiny_data).load(tiny_data, "train", tiny_specs(length))
    with np.load(tiny_data / "mosi_train.npz") as file:
        rows = {name: file[field] for name, field in FIELDS.items()}
        place = {(v, int(s)): row for row, (v, s) in enumerate(zip(file["video_id"], file["segment"], strict=True))}
    for name, item in zip(split.ids, split.items, strict=True):
        video, segment = name.split("_")
        here = int(segment)
        order = [*range(here, 0, -1), *range(here + 1, 6)][:length]
        for modality, features in rows.items():
            np.testing.assert_array_equal(item[modality], features[[place[video, other] for other in order]])


def test_a_sequence_holds_no_other_video(tiny_data: Path) -> None:
    split = open_dataset(tiny_data).load(tiny_data, "train", tiny_specs(99))
    with np.load(tiny_data / "mosi_train.npz") as file:
        owner = {row.tobytes(): video for row, video in zip(file["text"], file["video_id"], strict=True)}
    for video, item in zip(split.groups, split.items, strict=True):
        assert {owner[row.tobytes()] for row in item["text"]} == {video}
        assert len(item["text"]) == 5


def test_a_part_never_parts_a_video(tiny_data: Path) -> None:
    split = open_dataset(tiny_data).load(tiny_data, "train", tiny_specs(4))
    half = split.part(0.5, np.random.default_rng(0))
    assert len(set(half.groups)) == 4
    assert len(half) == 20
    assert half.ids == split.part(0.5, np.random.default_rng(0)).ids
    assert half.ids != split.part(0.5, np.random.default_rng(1)).ids
    assert len(set(split.part(0.0001, np.random.default_rng(0)).groups)) == 1
    position = split.ids.index(half.ids[7])
    assert half.labels[7] == split.labels[position]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (specs(4, {"text": 7}), "text has 6 features here, but the model takes 7"),
        (specs(4, {"thermal": 7}), "no thermal; it has text, audio, vision"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(tiny_data: Path, inputs: tuple[TensorSpec, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_dataset(tiny_data).load(tiny_data, "train", inputs)


def test_an_absent_split_names_those_that_are_there(tiny_data: Path) -> None:
    with pytest.raises(UsageError, match="splits in this folder: train, valid"):
        open_dataset(tiny_data).load(tiny_data, "test", tiny_specs(4))


@pytest.mark.parametrize("damage", ["truncated", "incomplete", "pickled"])
def test_a_damaged_split_is_refused(tiny_data: Path, damage: str) -> None:
    path = tiny_data / "mosi_valid.npz"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "incomplete":
        np.savez(path, text=np.zeros((2, 6), np.float32))
    else:
        np.savez(path, text=np.array([{}], object), allow_pickle=True)
    with pytest.raises(UsageError, match=r"mosi_valid\.npz is no split of this data set"):
        open_dataset(tiny_data).load(tiny_data, "valid", tiny_specs(4))


def test_training_tensors_are_those_of_the_served_task(tiny_data: Path, tiny_settings: SentimentSettings) -> None:
    """What the recipe trains on, against the task as a server builds it: from a manifest that went through JSON."""
    corpus = Corpus(tiny_data, tiny_settings.length)
    host = fresh_host(corpus, tiny_settings, None)
    trained_on = corpus.examples(corpus.valid, host, describe(corpus))
    manifest = draft_manifest(describe(corpus), host)
    served = tasks.get("sentiment")(type(manifest).from_json(manifest.to_json()), tiny_data)
    for row, item in enumerate(corpus.valid.items):
        request = json.loads(json.dumps({name: value.tolist() for name, value in item.items()}))
        tensors = served.preprocess(request)["model"]
        for name, value in zip(corpus.widths, trained_on.inputs, strict=True):
            np.testing.assert_array_equal(tensors[name], value[row].numpy())
    loaded = load_rows(tiny_data, "valid", served)["model"]
    np.testing.assert_array_equal(loaded.stacked(range(len(loaded)))["text"], trained_on.inputs[0].numpy())
    np.testing.assert_array_equal(loaded.labels[:, None], trained_on.targets.numpy())


def test_padding_is_exactly_zero_once_standardised(tiny_data: Path, tiny_settings: SentimentSettings) -> None:
    settings = tiny_settings.model_copy(update={"length": 8})
    corpus = Corpus(tiny_data, settings.length)
    host = fresh_host(corpus, settings, None)
    examples = corpus.examples(corpus.train, host, describe(corpus))
    for value, mean, std in zip(examples.inputs, host.feature_mean, host.feature_std, strict=True):
        standardised = (value - mean) / std
        assert (standardised[:, 5:] == 0).all()  # five utterances a video
        np.testing.assert_allclose(standardised[:, 0].mean(0).detach(), 0, atol=1e-5)
        np.testing.assert_allclose(standardised[:, 0].std(0, correction=0).detach(), 1, atol=1e-5)


def test_a_constant_feature_is_not_scaled(tiny_data: Path) -> None:
    with np.load(tiny_data / "mosi_train.npz") as file:
        changed = dict(file)
    changed["audio"][:, 1] = 4.5
    np.savez(tiny_data / "mosi_train.npz", **changed)
    corpus = Corpus(tiny_data, 4)
    assert corpus.std["audio"][1] == 1.0
    assert corpus.mean["audio"][1] == 4.5


def test_an_item_that_the_task_refuses_is_named(tiny_data: Path, tiny_settings: SentimentSettings) -> None:
    with np.load(tiny_data / "mosi_valid.npz") as file:
        changed = dict(file)
    changed["text"][0, 0] = np.nan
    np.savez(tiny_data / "mosi_valid.npz", **changed)
    corpus = Corpus(tiny_data, tiny_settings.length)
    host = fresh_host(corpus, tiny_settings, None)
    with pytest.raises(UsageError, match=r"item v0_\d: text holds a number that is not finite") as raised:
        corpus.examples(corpus.valid, host, describe(corpus))
    assert isinstance(raised.value.__cause__, InputError)


def test_an_empty_split_is_refused(tiny_data: Path, tiny_settings: SentimentSettings) -> None:
    corpus = Corpus(tiny_data, tiny_settings.length)
    task = tasks.get("sentiment")(draft_manifest(describe(corpus), fresh_host(corpus, tiny_settings, None)), tiny_data)
    with pytest.raises(UsageError, match="empty"):
        arrays(corpus.valid.take([]), task, "model")


def test_the_real_data_set(mosi_data: Path) -> None:
    dataset = open_dataset(mosi_data)
    widths = dataset.widths(mosi_data)
    assert widths == {"text": 100, "audio": 73, "vision": 100}
    sizes, videos = {}, {}
    for name in ("train", "valid", "test"):
        split = dataset.load(mosi_data, name, specs(10, widths))
        sizes[name], videos[name] = len(split), set(split.groups)
        assert len(set(split.ids)) == len(split)
        assert all(1 <= len(item["text"]) <= 10 for item in split.items)
    assert sizes == {"train": 1252, "valid": 195, "test": 627}
    assert not videos["train"] & videos["valid"]
    assert not (videos["train"] | videos["valid"]) & videos["test"]
