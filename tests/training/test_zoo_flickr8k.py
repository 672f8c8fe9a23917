"""The image-text checkpoint that ships: whole, small, alive, and as good as its card says."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.oracles import SHARED
from wander.backbones.base import run
from wander.checkpoints.folder import Loaded, load
from wander.training.evaluation import evaluate

ZOO = Path(__file__).parents[2] / "zoo" / "flickr8k-image-text"
DATA = SHARED / "data" / "flickr8k"
CARD = (ZOO / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def shipped() -> Loaded:
    return load(ZOO / "adapter", ZOO / "backbone")


def test_it_is_trained_and_small(shipped: Loaded) -> None:
    assert shipped.about.provenance["weights"] == "trained"
    assert shipped.host.adapter_module is not None
    assert shipped.host.adapter_module.warnings() == []
    assert sum(path.stat().st_size for path in ZOO.rglob("*")) < 10_000_000


def test_the_card_states_the_command_and_the_sizes(shipped: Loaded) -> None:
    assert shipped.about.provenance["command"] in CARD
    for part in shipped.host.split_state():
        assert f"{sum(value.numel() for value in part.values()):,} values" in CARD


def test_no_path_of_a_machine_ships() -> None:
    for path in [*ZOO.rglob("*.json"), ZOO / "README.md"]:
        text = path.read_text(encoding="utf-8")
        assert not any(start in text for start in ("/home/", "/root/", "/tmp/", "/work/", "C:\\")), path


@pytest.mark.parametrize("side", ["image", "text"])
def test_the_adapter_is_not_bypassed(shipped: Loaded, side: str) -> None:
    zeroed = copy.deepcopy(shipped.host)
    assert zeroed.adapter_module is not None
    zeroed.adapter_module.zero_()
    inputs = shipped.host.random_inputs(side, 4, np.random.default_rng(0))
    name = f"{side}_embedding"
    adapted, plain = (run(host.towers("")[side], inputs)[name] for host in (shipped.host, zeroed))
    assert np.abs(adapted - plain).max() > 1e-2


def test_every_part_of_the_adapter_was_trained(shipped: Loaded) -> None:
    for name, value in shipped.host.split_state()[0].items():
        assert torch.isfinite(value).all(), name
        assert value.any(), name


@pytest.mark.skipif(not DATA.is_dir(), reason="the folder shared/data/flickr8k is not beside the project")
@pytest.mark.parametrize("split", ["valid", "test"])
def test_it_measures_as_its_card_says(split: str) -> None:
    found = evaluate(ZOO, DATA, split)
    assert found.rows == ({"image": 103, "text": 515} if split == "test" else {"image": 113, "text": 565})
    cells = [f"{found.metrics[f'{way}.{name}']:.3f}" for way in ("text_to_image", "image_to_text") for name in RECALLS]
    assert f"| {split}, adapter and heads | {' | '.join(cells)} |" in CARD


RECALLS = ("r1", "r5", "r10")
