"""`inspect` on everything there is to inspect."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.export.conftest import write_checkpoint
from tests.oracles import Oracle, needs_oracles
from wander.adapters.wander import Wander
from wander.checkpoints.inspect import inspect
from wander.errors import CheckpointError, UsageError


@needs_oracles
def test_a_whole_module() -> None:
    oracle = Oracle("wander_late_fusion", "e30_out1")
    found = inspect(oracle.path("whole_module.pt"), {})
    assert (found["kind"], found["format"], found["task"]) == ("checkpoint", "zip", "sentiment")
    adapter = found["model"]["adapter"]
    assert (adapter["rank_h"], adapter["rank_t"]) == (oracle.sizes["rank_h"], oracle.sizes["rank_t"])
    assert found["model"]["adapter_parameters"] == Wander.parameter_count(Wander.Config.model_validate(adapter))
    assert found["model"]["folded"]["share"] < 0.5
    assert found["warnings"] == []


def test_a_file_of_no_known_model_still_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(3, 2)}, "args": {"lr": 0.1}}, tmp_path / "x.pt")
    found = inspect(tmp_path / "x.pt", {})
    assert (found["tensors"], found["parameters"], found["model"]) == (1, 6, None)
    assert found["options"] == {"lr": 0.1}
    assert "no format known" in found["warnings"][0]


def test_adapter_and_backbone_folders(tmp_path: Path) -> None:
    out = write_checkpoint(tmp_path / "out")
    whole = inspect(out, {})
    assert whole == inspect(out / "adapter", {})
    assert whole["kind"] == "adapter"
    backbone = inspect(out / "backbone", {})
    assert backbone["parameters"] == whole["model"]["backbone_parameters"]
    (out / "backbone").rename(tmp_path / "elsewhere")
    alone = inspect(out / "adapter", {})
    assert alone["parameters"] == whole["model"]["trained_parameters"]
    assert "backbone is not here" in alone["warnings"][0]


def test_what_is_nothing_of_this_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        inspect(tmp_path / "nothing", {})
    with pytest.raises(UsageError, match="holds no adapter"):
        inspect(tmp_path, {})
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"text\.pt"):
        inspect(tmp_path / "text.pt", {})
