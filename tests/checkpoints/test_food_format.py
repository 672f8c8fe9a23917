"""The authors' food checkpoints: names of two generations, what they tell, and what they cannot tell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.oracles import Oracle, needs_oracles
from wander.backbones.bert_vit import BertViT, BertViTConfig
from wander.checkpoints import folder
from wander.checkpoints.convert import convert, interpret
from wander.checkpoints.formats.wander_food import NEW_NAMES, WanderFood, renamed
from wander.checkpoints.reader import read, state_dict
from wander.errors import CheckpointError

HEADS = {"vit": {"heads": 2}, "bert": {"heads": 2}, "fusion_heads": 2}


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle("wander_food_fusion", "e24")


@needs_oracles
def test_a_whole_module_tells_all_but_the_attention_layout(oracle: Oracle) -> None:
    converted = interpret(oracle.path("whole_module.pt"), {})
    host, case = converted.host, oracle.sizes
    assert isinstance(host, BertViT)
    assert list(host.config.lengths) == case["lengths"]
    assert (host.config.fusion_heads, host.config.fusion_layers) == (case["fusion_heads"], case["fusion_layers"])
    for name in ("layers", "heads", "intermediate", "image_size", "patch_size", "layer_norm_eps"):
        assert getattr(host.config.vit, name) == case["vit"][name]
    for name in ("layers", "heads", "intermediate", "vocab", "max_positions", "layer_norm_eps"):
        assert getattr(host.config.bert, name) == case["bert"][name]
    assert host.config.attention_layout == "normal"
    assert converted.head == {"out_dim": 101, "activation": "relu"}
    assert converted.about.task == "food"
    assert converted.about.labels[:2] == ("class_0", "class_1")


@needs_oracles
def test_old_and_new_names_of_vit_give_the_same_files(oracle: Oracle, tmp_path: Path) -> None:
    convert(oracle.path("state_dict.pt"), tmp_path / "old", oracle.sizes)
    convert(oracle.path("whole_module.pt"), tmp_path / "new", {})
    for part in ("adapter/adapter_model.safetensors", "backbone/model.safetensors", "backbone/config.json"):
        assert (tmp_path / "old" / part).read_bytes() == (tmp_path / "new" / part).read_bytes()
    adapted = folder.read_tensors(tmp_path / "old" / "adapter" / folder.ADAPTER_WEIGHTS)
    frozen = folder.read_tensors(tmp_path / "old" / "backbone" / folder.BACKBONE_WEIGHTS)
    assert {name.split(".")[0] for name in adapted} == {"adapter", "proj1", "out_layer"}
    assert {name.split(".")[0] for name in frozen} == {"vision_encoder", "text_encoder", "fusion"}
    stored = {
        renamed(n.removeprefix("basemodel.")): v for n, v in state_dict(read(oracle.path("state_dict.pt"))).items()
    }
    left_out = set(stored) - set(adapted) - set(frozen)
    assert left_out == {
        "vision_encoder.pooler.dense.weight", "vision_encoder.pooler.dense.bias", "text_encoder.pooler.dense.weight",
        "text_encoder.pooler.dense.bias", "fusion.version", "fusion.embed_positions._float_tensor",
    }  # fmt: skip
    for name, value in {**adapted, **frozen}.items():
        assert torch.equal(value, stored[name]), name


@needs_oracles
def test_what_a_state_dict_cannot_tell_is_asked_for_by_name(oracle: Oracle) -> None:
    given: dict[str, Any] = {}
    for name, answer in (
        ("lengths", {"lengths": [17, 11]}),
        (r"vit\.heads", {"vit": {"heads": 4}}),
        (r"bert\.heads", {"bert": {"heads": 3}}),
        ("fusion_heads", {"fusion_heads": 8}),
    ):
        with pytest.raises(CheckpointError, match=rf"{name} is not in the checkpoint; say it .* --config"):
            interpret(oracle.path("base_state_dict.pt"), given)
        given |= answer
    host = interpret(oracle.path("base_state_dict.pt"), given).host
    assert host.adapter_module is None
    assert host.config == interpret(oracle.path("whole_module.pt"), {}).host.config


@needs_oracles
@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"vit": {"heads": 6}}, r"vit\.heads is 4 in the checkpoint, but 6 in the configuration"),
        ({"bert": {"vocab": 98}}, r"bert\.vocab is 97 in the checkpoint, but 98"),
        ({"lengths": [17, 12]}, r"lengths is \[17, 11\] in the checkpoint"),
        ({"bert": 3}, "bert must be an object of sizes, not 3"),
        ({"attention_layout": "upside_down"}, "attention_layout"),
        ({"head_activation": "tanh"}, "activation"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_by_name(
    oracle: Oracle, given: Mapping[str, Any], complaint: str
) -> None:
    with pytest.raises(CheckpointError, match=complaint):
        interpret(oracle.path("whole_module.pt"), given)


@needs_oracles
def test_lengths_are_those_of_the_image(oracle: Oracle) -> None:
    for lengths in ([18, 11], [11], 11):
        with pytest.raises(CheckpointError, match="do not fit: an image has 17 tokens"):
            interpret(oracle.path("base_state_dict.pt"), {**oracle.sizes, "lengths": lengths})


@needs_oracles
def test_options_of_the_user_are_kept(oracle: Oracle) -> None:
    labels = [f"dish {number}" for number in range(101)]
    given = {**oracle.sizes, "attention_layout": "released_b1", "base_head_activation": "relu", "labels": labels}
    converted = interpret(oracle.path("base_state_dict.pt"), given)
    assert converted.host.config.attention_layout == "released_b1"
    assert converted.head["activation"] == "relu"
    assert list(converted.about.labels) == labels
    assert interpret(oracle.path("base_state_dict.pt"), oracle.sizes).head["activation"] == "gelu"


def saved(path: Path, changes: Mapping[str, torch.Tensor | None]) -> Path:
    """A small host's state dict, with tensors changed, added or (None) left out."""
    torch.manual_seed(0)
    state = BertViT.build(*BertViT.example()).state_dict() | dict(changes)
    torch.save({name: value for name, value in state.items() if value is not None}, path)
    return path


def test_every_part_of_a_layer_has_its_new_name() -> None:
    names = BertViT.build(*BertViT.example()).state_dict()
    for old, new in NEW_NAMES.items():
        for kind in ("weight", "bias"):
            found = renamed(f"vision_encoder.encoder.layer.0.{old}.{kind}")
            assert found == f"vision_encoder.layers.0.{new}.{kind}"
            assert found in names
            assert renamed(found) == found
    text = "text_encoder.encoder.layer.0.attention.output.dense.weight"
    assert renamed(text) == text


def test_what_nothing_reads_is_ignored_and_nothing_else(tmp_path: Path) -> None:
    unread = {
        "text_encoder.embeddings.position_ids": torch.arange(6)[None],
        "text_encoder.pooler.dense.weight": torch.zeros(8, 8),
        "fusion.embed_positions._float_tensor": torch.full((1,), torch.nan),
    }
    host = interpret(saved(tmp_path / "a.pt", unread), HEADS).host
    assert isinstance(host.config, BertViTConfig)
    strange = {**unread, "vision_encoder.embeddings.mask_token": torch.zeros(1, 1, 8)}
    with pytest.raises(CheckpointError, match=r"mask_token is not expected"):
        interpret(saved(tmp_path / "b.pt", strange), HEADS)
    with pytest.raises(CheckpointError, match=r"vision_encoder\.layernorm\.weight is missing"):
        interpret(saved(tmp_path / "c.pt", {"vision_encoder.layernorm.weight": None}), HEADS)


def test_an_image_that_is_no_square_is_refused(tmp_path: Path) -> None:
    positions = {"vision_encoder.embeddings.position_embeddings": torch.zeros(1, 7, 8)}
    with pytest.raises(CheckpointError, match=r"positions \[1, 7, 8\] are not those of a square image"):
        interpret(saved(tmp_path / "a.pt", positions), HEADS)


def test_the_late_fusion_host_is_none_of_these() -> None:
    assert not WanderFood.recognises(["proj.0.weight", "out_layer_proj0.weight", "out_layer.weight"])
    assert WanderFood.recognises([f"basemodel.{name}" for name in BertViT.build(*BertViT.example()).state_dict()])
