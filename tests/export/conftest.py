"""A small converted checkpoint, exported once for the whole run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from export.compose import compose
from export.options import Options
from export.pipeline import export
from wander.backbones.late_fusion import LateFusion
from wander.bundle import Bundle
from wander.checkpoints import folder

ABOUT = folder.Description(task="emotion", labels=("calm", "glad"), provenance={"weights": "random"})


def write_checkpoint(out: Path, seed: int = 0) -> Path:
    """A late-fusion host with random weights, as our own folders."""
    torch.manual_seed(seed)
    config, adapter, head = LateFusion.example()
    host = LateFusion.build(config, adapter, head)
    for name, parameter in host.named_parameters():
        if name.startswith("adapter"):
            torch.nn.init.normal_(parameter, std=0.5)
    folder.save(host, head.model_dump(), ABOUT, out, "random-backbone")
    return out


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "converted")


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(compose(checkpoint), tmp_path_factory.mktemp("models") / "small", Options())
