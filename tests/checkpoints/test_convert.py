"""Conversion: what a checkpoint tells, what it cannot tell, and what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.oracles import LATE_FUSION, Oracle, needs_oracles
from wander.adapters.wander import Wander
from wander.checkpoints import folder
from wander.checkpoints.convert import convert, interpret
from wander.checkpoints.reader import read, state_dict
from wander.errors import CheckpointError, UsageError


@needs_oracles
@pytest.mark.parametrize("variant", LATE_FUSION)
def test_a_whole_module_tells_everything_itself(variant: str) -> None:
    oracle = Oracle("wander_late_fusion", variant)
    case = oracle.sizes
    host = interpret(oracle.path("whole_module.pt"), {}).host
    for name in ("feature_dims", "lengths"):
        assert list(getattr(host.config, name)) == case[name]
    assert (host.config.num_heads, host.config.encoder_layers) == (case["num_heads"], case["encoder_layers"])
    adapter = host.adapter_module.config
    assert (adapter.down_dim, adapter.rank_h, adapter.rank_t) == (case["down_dim"], case["rank_h"], case["rank_t"])


@needs_oracles
def test_a_state_dict_needs_its_heads_and_equals_the_module_then(tmp_path: Path) -> None:
    oracle = Oracle("wander_late_fusion", "e30_out1")
    with pytest.raises(CheckpointError, match=r'num_heads is not in the checkpoint.*--config: \{"num_heads"'):
        interpret(oracle.path("state_dict.pt"), {})
    convert(oracle.path("state_dict.pt"), tmp_path / "a", {"num_heads": 5})
    convert(oracle.path("whole_module.pt"), tmp_path / "b", {})
    for part in ("adapter/adapter_model.safetensors", "backbone/model.safetensors"):
        assert (tmp_path / "a" / part).read_bytes() == (tmp_path / "b" / part).read_bytes()


@needs_oracles
def test_adapter_and_head_go_to_one_folder_and_the_backbone_to_the_other(tmp_path: Path) -> None:
    oracle = Oracle("wander_late_fusion", "e15_out4")
    convert(oracle.path("whole_module.pt"), tmp_path / "out", {"labels": ["a", "b", "c", "d"]})
    adapted = folder.read_tensors(tmp_path / "out" / "adapter" / folder.ADAPTER_WEIGHTS)
    frozen = folder.read_tensors(tmp_path / "out" / "backbone" / folder.BACKBONE_WEIGHTS)
    assert {name.split(".")[0] for name in adapted} == {
        "adapter", "out_layer", "out_layer_proj0", "out_layer_proj1", "out_layer_proj2",
    }  # fmt: skip
    assert {name.split(".")[0] for name in frozen} == {"proj", "encoders"}
    about = json.loads((tmp_path / "out" / "adapter" / folder.ADAPTER_CONFIG).read_text())
    assert (about["task"], about["labels"]) == ("emotion", ["a", "b", "c", "d"])
    assert about["provenance"]["converted_from"] == "whole_module.pt"
    original = state_dict(read(oracle.path("state_dict.pt")))
    for name, value in {**adapted, **frozen}.items():
        stored = original.get(name, original.get(f"basemodel.{name}"))
        assert stored is not None
        assert torch.equal(value, stored), name


@needs_oracles
def test_what_the_configuration_says_must_agree_with_the_weights() -> None:
    oracle = Oracle("wander_late_fusion", "e15_out4")
    with pytest.raises(CheckpointError, match=r"embed_dim is 15 in the checkpoint, but 16 in the configuration"):
        interpret(oracle.path("whole_module.pt"), {"embed_dim": 16})
    with pytest.raises(CheckpointError, match="lengths is not in the checkpoint"):
        interpret(oracle.path("base_whole_module.pt"), {})


@needs_oracles
def test_a_dead_adapter_is_warned_of() -> None:
    oracle = Oracle("wander_adapter_only", "m3_factor_t_all_zero")
    module = interpret(oracle.path("state_dict.pt"), {}).host.adapter_module
    assert isinstance(module, Wander)
    assert "every factor_t is zero" in module.warnings()[0]


def test_tensors_of_no_known_format_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({"strange.weight": torch.zeros(2)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"strange\.weight.*no format known"):
        interpret(tmp_path / "x.pt", {})


def test_factors_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    state = Wander.build(Wander.example_config()).state_dict()
    torch.save({**state, "factor_t_list.1": torch.zeros(9, 3, 3)}, tmp_path / "bent.pt")
    with pytest.raises(CheckpointError, match="do not go together"):
        interpret(tmp_path / "bent.pt", {})
    torch.save({name: v for name, v in state.items() if name != "factor_t_list.2"}, tmp_path / "short.pt")
    with pytest.raises(CheckpointError, match=r"2 of factor_t_list"):
        interpret(tmp_path / "short.pt", {})


def test_nothing_is_written_over(tmp_path: Path) -> None:
    torch.save(Wander.build(Wander.example_config()).state_dict(), tmp_path / "adapter.pt")
    convert(tmp_path / "adapter.pt", tmp_path / "out", {})
    with pytest.raises(UsageError, match="exists already"):
        convert(tmp_path / "adapter.pt", tmp_path / "out", {})
    with pytest.raises(CheckpointError):
        convert(tmp_path / "adapter.pt", tmp_path / "other", {"lengths": [1, 2, 3]})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter.pt", "out"]
