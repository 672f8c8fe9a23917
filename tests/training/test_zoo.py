"""The checkpoint that ships: whole, small, alive, and as good as its card says."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from wander.checkpoints.folder import Loaded, load
from wander.tasks import tasks
from wander.training.evaluation import draft_manifest, evaluate

ZOO = Path(__file__).parents[2] / "zoo" / "mosi-sentiment"


@pytest.fixture(scope="module")
def shipped() -> Loaded:
    return load(ZOO / "adapter", ZOO / "backbone")


def scores(loaded: Loaded, zeroed: bool = False) -> np.ndarray:
    """Of the shipped example."""
    host = copy.deepcopy(loaded.host)
    if zeroed:
        assert host.adapter_module is not None
        host.adapter_module.zero_()
    task = tasks.get(loaded.about.task)(draft_manifest(loaded.about, host), ZOO)
    tensors = task.preprocess(json.loads((ZOO / "example.json").read_text(encoding="utf-8")))["model"]
    with torch.no_grad():
        return host(*(torch.from_numpy(value.copy())[None] for value in tensors.values())).numpy()


def test_it_is_trained_and_small(shipped: Loaded) -> None:
    assert shipped.about.provenance["weights"] == "trained"
    assert shipped.host.adapter_module is not None
    assert shipped.host.adapter_module.warnings() == []
    assert sum(path.stat().st_size for path in ZOO.rglob("*")) < 2_000_000


def test_the_card_states_the_command_and_the_sizes(shipped: Loaded) -> None:
    card = (ZOO / "README.md").read_text(encoding="utf-8")
    assert shipped.about.provenance["command"] in card
    for part in shipped.host.split_state():
        assert f"{sum(value.numel() for value in part.values()):,} values" in card


def test_no_path_of_a_machine_ships() -> None:
    for path in [*ZOO.rglob("*.json"), ZOO / "README.md"]:
        text = path.read_text(encoding="utf-8")
        assert not any(start in text for start in ("/home/", "/root/", "/tmp/", "/work/", "C:\\")), path


def test_the_adapter_is_not_bypassed(shipped: Loaded) -> None:
    assert np.abs(scores(shipped) - scores(shipped, zeroed=True)).max() > 1e-4


def test_it_measures_as_its_card_says(mosi_data: Path) -> None:
    found = evaluate(ZOO, mosi_data)
    assert found.n == 627
    metrics = {name: value for name, value in found.metrics.items() if value is not None}
    assert metrics["acc2"] >= 0.77
    assert metrics["mae"] <= 0.90
    row = " | ".join(f"{metrics[name]:.3f}" for name in ("acc2", "f1", "acc7", "mae", "corr"))
    assert f"| adapter and head | {row} |" in (ZOO / "README.md").read_text(encoding="utf-8")


def test_no_row_of_the_data_set_ships(mosi_data: Path) -> None:
    item = json.loads((ZOO / "example.json").read_text(encoding="utf-8"))
    for split in ("train", "valid", "test"):
        with np.load(mosi_data / f"mosi_{split}.npz") as file:
            for modality, field in (("text", "text"), ("audio", "audio"), ("vision", "video")):
                for row in item[modality]:
                    assert np.abs(file[field] - np.array(row, np.float32)).max(1).min() > 0.1
