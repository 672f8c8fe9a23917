"""The folder in which a page's blocks run: the shipped models that pages name, and files that a reader would have."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from export.compose import compose
from export.options import Options
from export.pipeline import export
from tests.docs.pages import ROOT
from tests.serving.building import KEYS
from wander.backbones.late_fusion import LateFusion

SHIPPED = ("mosi-sentiment", "food")


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every page finds. It is copied for each, models as hard links."""
    folder = tmp_path_factory.mktemp("docs") / "material"
    folder.mkdir()
    for name in SHIPPED:
        export(compose(ROOT / "zoo" / name), folder / "models" / name, Options())
    (folder / "zoo").symlink_to(ROOT / "zoo")
    example = json.loads((folder / "models" / "mosi-sentiment" / "1" / "example.json").read_text())
    np.savez(folder / "features.npz", **{name: np.asarray([rows] * 3, np.float32) for name, rows in example.items()})
    shutil.copy(next((ROOT / "zoo").glob("mosi-sentiment/example.json")), folder / "item.json")
    (folder / "keys.json").write_text(KEYS)
    (folder / "keys.json").chmod(0o600)
    _research_checkpoint(folder)
    return folder


def _research_checkpoint(folder: Path) -> None:
    """A file as a training script leaves it, and real inputs of that model; its weights are random."""
    torch.manual_seed(0)
    config, adapter, head = LateFusion.example()
    sizes = config.model_copy(update={"standardise": False})
    host = LateFusion.build(sizes, adapter, head)
    for parameter in host.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    host.num_heads = config.num_heads  # as the authors' classes have it
    torch.save(host, folder / "best_model.pt")
    torch.save(host.state_dict(), folder / "state_dict.pt")
    inputs = host.random_inputs("model", 4, np.random.default_rng(0))
    rows = ({name: value[row].tolist() for name, value in inputs.items()} for row in range(2))
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.savez(folder / "inputs.npz", **inputs)


@pytest.fixture
def workplace(material: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(material, tmp_path / "here", copy_function=_link, symlinks=True))


def _link(source: str, target: str) -> None:
    """A link for what is only read; pages may write into the small files."""
    if "/models/" in source:
        os.link(source, target)
    else:
        shutil.copy2(source, target)
