"""The checkpoints that ship: whole, small, alive, and as good as their cards say."""

from __future__ import annotations

import base64
import copy
import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tests.oracles import SHARED
from wander.backbones.base import run
from wander.checkpoints.folder import Loaded, load
from wander.tasks import tasks
from wander.tasks.base import Item
from wander.tasks.front_ends.words import tokens
from wander.training.evaluation import draft_manifest, evaluate

ROOT = Path(__file__).parents[2] / "zoo"
MOSI, FOOD = ROOT / "mosi-sentiment", ROOT / "food"
SENTENCE, RECORDING = ROOT / "mosi-sentence", ROOT / "ravdess-emotion"
LARGEST = {
    "mosi-sentiment": 2_000_000,
    "mosi-sentence": 2_000_000,
    "ravdess-emotion": 5_000_000,
    "food": 6_000_000,
    "flickr8k-image-text": 6_000_000,
}
needs_food = pytest.mark.skipif(
    not (SHARED / "data" / "food").is_dir(), reason="the folder shared/data/food is not beside the project"
)

needs_ravdess = pytest.mark.skipif(
    not (SHARED / "data" / "ravdess").is_dir(), reason="the folder shared/data/ravdess is not beside the project"
)


@pytest.fixture(scope="module", params=sorted(path.name for path in ROOT.iterdir()))
def zoo(request: pytest.FixtureRequest) -> Path:
    return ROOT / request.param


@pytest.fixture(scope="module")
def shipped(zoo: Path) -> Loaded:
    return load(zoo / "adapter", zoo / "backbone")


def example(zoo: Path) -> Item:
    """The shipped item, with files as bytes."""
    item = json.loads((zoo / "example.json").read_text(encoding="utf-8"))
    files = {field: item[field] for field in ("image", "audio") if isinstance(item.get(field), str)}
    return item | {field: base64.b64decode(file) for field, file in files.items()}


def outputs(zoo: Path, loaded: Loaded, zeroed: bool = False) -> list[np.ndarray]:
    """Of the shipped example, those of every graph that it needs."""
    host = copy.deepcopy(loaded.host)
    if zeroed:
        assert host.adapter_module is not None
        host.adapter_module.zero_()
    task = tasks.get(loaded.about.task)(draft_manifest(loaded.about, host), zoo / "adapter")
    calls = task.operation(next(iter(task.operations))).preprocess(example(zoo))
    towers = host.towers(task.output)
    answers = [run(towers[name], {key: value[None] for key, value in call.items()}) for name, call in calls.items()]
    return [value for answer in answers for value in answer.values()]


def test_it_is_trained_and_small(zoo: Path, shipped: Loaded) -> None:
    assert shipped.about.provenance["weights"] == "trained"
    assert shipped.host.adapter_module is not None
    assert shipped.host.adapter_module.warnings() == []
    assert sum(path.stat().st_size for path in zoo.rglob("*")) < LARGEST[zoo.name]


def test_the_card_states_the_command_and_the_sizes(zoo: Path, shipped: Loaded) -> None:
    card = (zoo / "README.md").read_text(encoding="utf-8")
    assert shipped.about.provenance["command"] in card
    for part in shipped.host.split_state():
        assert f"{sum(value.numel() for value in part.values()):,} values" in card


def test_no_path_of_a_machine_ships(zoo: Path) -> None:
    for path in [*zoo.rglob("*.json"), zoo / "README.md"]:
        text = path.read_text(encoding="utf-8")
        assert not any(start in text for start in ("/home/", "/root/", "/tmp/", "/work/", "C:\\")), path


def test_the_adapter_is_not_bypassed(zoo: Path, shipped: Loaded) -> None:
    for trained, zeroed in zip(outputs(zoo, shipped), outputs(zoo, shipped, zeroed=True), strict=True):
        assert np.abs(trained - zeroed).max() > 1e-4


def test_sentiment_measures_as_its_card_says(mosi_data: Path) -> None:
    found = evaluate(MOSI, mosi_data)
    assert found.n == 627
    metrics = {name: value for name, value in found.metrics.items() if value is not None}
    assert metrics["acc2"] >= 0.77
    assert metrics["mae"] <= 0.90
    row = " | ".join(f"{metrics[name]:.3f}" for name in ("acc2", "f1", "acc7", "mae", "corr"))
    assert f"| adapter and head | {row} |" in (MOSI / "README.md").read_text(encoding="utf-8")


@needs_food
def test_food_measures_as_its_card_says() -> None:
    cells = []
    for split, size in (("valid", 100), ("test", 160)):
        found = evaluate(FOOD, SHARED / "data" / "food", split)
        assert found.n == size
        cells.append(f"{found.metrics['accuracy']:.3f}")
    assert f"| picture and text | {' | '.join(cells)} |" in (FOOD / "README.md").read_text(encoding="utf-8")


def test_sentences_measure_as_their_card_says(mosi_data: Path) -> None:
    found = evaluate(SENTENCE, mosi_data)
    assert found.n == 627
    row = " | ".join(f"{found.metrics[name]:.3f}" for name in ("acc2", "f1", "acc7", "mae", "corr"))
    assert f"| adapter and head | {row} |" in (SENTENCE / "README.md").read_text(encoding="utf-8")


@needs_ravdess
def test_recordings_measure_as_their_card_says() -> None:
    cells = []
    for split, size in (("valid", 120), ("test", 240)):
        found = evaluate(RECORDING, SHARED / "data" / "ravdess", split)
        assert found.n == size
        cells.append(f"{found.metrics['accuracy']:.3f}")
    assert f"| adapter and head | {' | '.join(cells)} |" in (RECORDING / "README.md").read_text(encoding="utf-8")


def test_no_sentence_of_mosi_ships(mosi_data: Path) -> None:
    with (mosi_data / "mosi_transcripts.csv").open(newline="", encoding="utf-8") as file:
        said = {" ".join(tokens(row["transcript"])) for row in csv.DictReader(file)}
    assert example(SENTENCE)["text"] not in said


def test_no_row_of_mosi_ships(mosi_data: Path) -> None:
    item = example(MOSI)
    for split in ("train", "valid", "test"):
        with np.load(mosi_data / f"mosi_{split}.npz") as file:
            for modality, field in (("text", "text"), ("audio", "audio"), ("vision", "video")):
                for row in item[modality]:
                    assert np.abs(file[field] - np.array(row, np.float32)).max(1).min() > 0.1


@needs_food
def test_no_recipe_ships() -> None:
    with (SHARED / "data" / "food" / "recipes.csv").open(newline="", encoding="utf-8") as file:
        recipes = {row["ingredients"] for row in csv.DictReader(file)}
    assert example(FOOD)["text"] not in recipes
