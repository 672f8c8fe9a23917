"""Conversion of BEiT-3 and MultiWay-Adapter checkpoints: what they tell, what they cannot tell, what does not fit."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.oracles import Oracle, needs_oracles
from wander.backbones.base import run
from wander.backbones.beit3 import PUBLISHED, BEiT3, interpolate_positions
from wander.checkpoints import folder
from wander.checkpoints.convert import convert, interpret
from wander.checkpoints.formats.mwa_beit3 import backbone_config
from wander.checkpoints.reader import read, state_dict
from wander.errors import CheckpointError

HEADS = {"num_heads": 2}


def checkpoint(path: Path, *, args: dict[str, Any] | None = None, **changes: torch.Tensor | None) -> Path:
    """A file as a training run writes it, with the weights of a small model; a change to None takes a tensor out."""
    torch.manual_seed(0)
    config, adapter, head = BEiT3.example()
    own = ("adaptmlp", "enhancemlp", "encoder", "embed")
    state = BEiT3.build(config, adapter, head).state_dict()
    named = {f"beit3.{name}" if any(part in name for part in own) else name: value for name, value in state.items()}
    named.update({name.replace("__", "."): value for name, value in changes.items()})
    root: dict[str, Any] = {"model": {name: value for name, value in named.items() if value is not None}}
    if args is not None:
        root["args"] = Namespace(ffn_option="parallel", ffn_adapter_layernorm_option="none", **args)
    torch.save(root, path)
    return path


def plain(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    """A keyword argument for `checkpoint`, whose name may hold dots."""
    return {name.replace(".", "__"): value}


@needs_oracles
@pytest.mark.parametrize(
    "variant", ["learnable_scalar", "ln_out_enhance_on", "mode_vision", "plain", "sequential", "scalar_default"]
)
def test_a_converted_checkpoint_is_the_checkpoint(variant: str, tmp_path: Path) -> None:
    oracle = Oracle("mwa_retrieval", variant)
    file = oracle.path("beit3_plain.pth" if variant == "plain" else "checkpoint-9.pth")
    converted = convert(file, tmp_path / "out", {"num_heads": 4})
    case = oracle.sizes
    config = converted.host.config
    for name in ("embed_dim", "layers", "ffn_dim", "image_size", "patch_size", "vocab_size"):
        assert getattr(config, name) == case[name]
    assert converted.about.task == "image_text"
    assert converted.about.preprocessing["image"]["size"] == [case["image_size"]] * 2
    assert converted.about.preprocessing["text"] == {"kind": "beit3", "max_length": 64}
    again = folder.load(tmp_path / "out" / "adapter", tmp_path / "out" / "backbone").host
    stored = {name.removeprefix("beit3."): value for name, value in state_dict(read(file)).items()}
    assert stored.keys() == again.state_dict().keys()
    for name, value in again.state_dict().items():
        assert torch.equal(value, stored[name]), name
    for name, tower in converted.host.eval().towers("unused").items():
        inputs = {spec.name: oracle.inputs[spec.name] for spec in tower.signature.inputs}
        for key, value in run(again.towers("unused")[name], inputs).items():
            np.testing.assert_array_equal(value, run(tower, inputs)[key])


@needs_oracles
@pytest.mark.parametrize("variant", ["learnable_scalar_ln_out", "ln_in_enhance_on", "mode_text", "sequential"])
def test_the_adapter_is_what_the_run_was_told(variant: str) -> None:
    oracle = Oracle("mwa_retrieval", variant)
    told = oracle.sizes["options"]
    module = interpret(oracle.path("checkpoint-9.pth"), {"num_heads": 4}).host.adapter_module
    assert module is not None
    config = module.config
    assert config.extractor_width == told["ffn_num"]
    assert config.scalar == ("learnable" if told["ffn_adapter_scalar"].startswith("learn") else 0.6)
    assert config.layernorm == told["ffn_adapter_layernorm_option"]
    assert (config.mode, config.option) == (told["ffn_mode"], told["ffn_option"])
    assert config.enhancer_width == (oracle.sizes["ffn_dim"] if told["ffn_enhance"] else None)
    warned = {"mode_text": "no adaptmlp_vision", "sequential": "not used"}
    assert [warned[variant] in warning for warning in module.warnings()] == [True] * (variant in warned)


def test_the_adapter_goes_to_one_folder_and_the_backbone_to_the_other(tmp_path: Path) -> None:
    given = {**HEADS, "option": "parallel", "provenance": {"data": "COCO"}}
    convert(checkpoint(tmp_path / "a.pth"), tmp_path / "out", given)
    adapted = folder.read_tensors(tmp_path / "out" / "adapter" / folder.ADAPTER_WEIGHTS)
    frozen = folder.read_tensors(tmp_path / "out" / "backbone" / folder.BACKBONE_WEIGHTS)
    own = ("adaptmlp", "enhancemlp", "head", "logit_scale")
    assert all(any(part in name for part in own) for name in adapted)
    assert not any(part in name for part in own for name in frozen)
    about = json.loads((tmp_path / "out" / "adapter" / folder.ADAPTER_CONFIG).read_text())
    assert about["provenance"] == {"converted_from": "a.pth", "format": "zip", "data": "COCO"}


def test_widths_are_read_and_not_assumed(tmp_path: Path) -> None:
    host = interpret(checkpoint(tmp_path / "a.pth", args={}), HEADS).host
    assert host.adapter_module.config == BEiT3.example()[1]
    assert host.adapter_module.config.enhancer_width != 4 * host.config.embed_dim


@pytest.mark.parametrize("name", ["base", "large"])
def test_published_sizes_have_their_published_heads(name: str) -> None:
    sizes = PUBLISHED[name]
    width = sizes["embed_dim"]
    weights = {
        "text_embed.weight": torch.empty(64010, width, device="meta"),
        "vision_embed.proj.weight": torch.empty(width, 3, 16, 16, device="meta"),
        "encoder.embed_positions.A.weight": torch.empty(579, width, device="meta"),
        "encoder.embed_positions.B.weight": torch.empty(1024, width, device="meta"),
        "encoder.layers.0.ffn.A.fc1.weight": torch.empty(4 * width, width, device="meta"),
    }
    for layer in range(sizes["layers"]):
        weights[f"encoder.layers.{layer}.self_attn.q_proj.A.weight"] = torch.empty(width, width, device="meta")
    config = backbone_config(weights, {})
    assert (config.num_heads, config.image_size) == (sizes["num_heads"], 384)
    assert backbone_config(weights, {"num_heads": 8}).num_heads == 8


def test_what_the_file_cannot_tell_is_asked_for_by_name(tmp_path: Path) -> None:
    learned = checkpoint(tmp_path / "learned.pth")
    with pytest.raises(CheckpointError, match=r'num_heads is not in the checkpoint.*--config: \{"num_heads"'):
        interpret(learned, {})
    with pytest.raises(CheckpointError, match="option is not in the checkpoint"):
        interpret(learned, HEADS)
    scales = {f"beit3.encoder.layers.{i}.adaptmlp_{m}.scale": None for i in range(2) for m in ("text", "vision")}
    fixed = checkpoint(tmp_path / "fixed.pth", **{k.replace(".", "__"): v for k, v in scales.items()})
    with pytest.raises(CheckpointError, match="scalar is not in the checkpoint"):
        interpret(fixed, HEADS)
    given = {**HEADS, "option": "parallel", "scalar": 0.5}
    assert interpret(fixed, given).host.adapter_module.config.scalar == 0.5


def test_what_is_said_must_agree_with_the_file(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "a.pth", args={"ffn_adapter_scalar": "learnable_scalar"})
    with pytest.raises(CheckpointError, match=r"scalar is learnable in the checkpoint, but 0\.5"):
        interpret(file, {**HEADS, "scalar": 0.5})
    with pytest.raises(CheckpointError, match="layers is 2 in the checkpoint, but 3"):
        interpret(file, {**HEADS, "layers": 3})
    with pytest.raises(CheckpointError, match="num_heads 3 does not divide"):
        interpret(file, {"num_heads": 3})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"vision_head__weight": None}, r"vision_head\.weight is missing"),
        (plain("mlm_head.weight", torch.zeros(3)), r"mlm_head\.weight is not expected"),
        (plain("beit3.encoder.layers.1.enhancemlp.fc1.bias", torch.zeros(3)), r"enhancemlp\.fc1\.bias has shape"),
        (plain("beit3.encoder.embed_positions.A.weight", torch.zeros(9, 8)), "6 positions of patches"),
        (plain("beit3.text_embed.weight", torch.zeros(9)), "text_embed"),
        ({"beit3__encoder__layers__0__ffn__A__fc1__weight": None}, r"ffn\.A\.fc1\.weight is missing"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(changes: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "a.pth", args={}, **changes)
    with pytest.raises(CheckpointError, match=complaint):
        interpret(file, HEADS)


def test_a_scalar_that_is_no_number_is_refused(tmp_path: Path) -> None:
    scales = [f"beit3__encoder__layers__{i}__adaptmlp_{m}__scale" for i in range(2) for m in ("text", "vision")]
    file = checkpoint(tmp_path / "a.pth", args={"ffn_adapter_scalar": "much"}, **dict.fromkeys(scales))
    with pytest.raises(CheckpointError, match="'much', neither a number"):
        interpret(file, HEADS)


def test_another_image_size_interpolates_the_positions(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "a.pth", args={})
    small, large = interpret(file, HEADS).host, interpret(file, {**HEADS, "image_size": 16}).host
    assert (small.config.image_size, large.config.image_size) == (8, 16)
    name = "encoder.embed_positions.A.weight"
    assert torch.equal(large.state_dict()[name], interpolate_positions(small.state_dict()[name], 16))
    inputs = large.random_inputs("image", 2, np.random.default_rng(0))
    assert run(large.eval().towers("unused")["image"], inputs)["image_embedding"].shape == (2, 8)
    with pytest.raises(CheckpointError, match="does not divide image_size 9"):
        interpret(file, {**HEADS, "image_size": 9})
