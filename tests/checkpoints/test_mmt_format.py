"""Conversion of MMT checkpoints: what they tell, what they cannot tell, what does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.oracles import MMT as VARIANTS
from tests.oracles import Oracle, needs_oracles
from wander.backbones._mmt_sizes import PUBLISHED
from wander.backbones.mmt import MMT
from wander.checkpoints import folder
from wander.checkpoints.convert import convert, interpret
from wander.checkpoints.formats.mmt import IGNORED, host_config
from wander.checkpoints.reader import read, state_dict
from wander.errors import CheckpointError

HEADS = {"video_heads": 2, "text_heads": 2, "tokens": 3}
TYPES = {"token_type_ids": {"rgb": 1, "speech": 3}}


def checkpoint(path: Path, *, without: str = "", **changes: torch.Tensor) -> Path:
    """A file with the weights of a small model, without a configuration; `without` a tensor."""
    torch.manual_seed(0)
    config, _, head = MMT.example()
    state = {**MMT.build(config, None, head).state_dict(), **changes}
    torch.save({"state_dict": {name: value for name, value in state.items() if name != without}}, path)
    return path


@needs_oracles
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_converted_checkpoint_is_the_checkpoint(variant: str, tmp_path: Path) -> None:
    oracle = Oracle("mmt", variant)
    file, case = oracle.path("trained_model.pth"), oracle.sizes
    converted = convert(file, tmp_path / "out", {})
    config = converted.host.config
    assert list(config.experts) == case["experts"]
    assert config.feature_dims == tuple(case["expert_dims"].values())
    assert config.token_types == tuple(case["token_type_ids"].values())
    for ours, theirs in {
        "embed_dim": "same_dim",
        "num_heads": "video_heads",
        "layers": "video_layers",
        "ffn_dim": "video_ffn",
        "positions": "max_position_embeddings",
        "type_vocab": "type_vocab_size",
        "tokens": "tokens_per_expert",
    }.items():
        assert getattr(config, ours) == case[theirs]
    text = case["text_bert"]
    assert (config.text_width, config.text.heads) == (text["hidden_size"], text["num_attention_heads"])
    assert converted.about.task == "text_video"
    assert converted.about.preprocessing["keep_missing_modalities"] is True
    assert converted.about.preprocessing["max_tokens"] == case["max_text_words"]
    assert converted.about.provenance["format"] == case["checkpoint_format"].split(" ")[0]
    again = folder.load(tmp_path / "out" / "adapter", tmp_path / "out" / "backbone").host.state_dict()
    stored = {name: value for name, value in state_dict(read(file)).items() if not IGNORED.match(name)}
    assert stored.keys() == again.keys()
    for name, value in again.items():
        assert torch.equal(value, stored[name]), name


@needs_oracles
def test_the_description_of_a_case_agrees_with_its_checkpoint() -> None:
    oracle = Oracle("mmt", "seven_experts")
    assert interpret(oracle.path("trained_model.pth"), oracle.sizes).host.config.num_heads == 4
    wrong = {**oracle.sizes, "experts": ["rgb"]}
    with pytest.raises(CheckpointError, match="experts is"):
        interpret(oracle.path("trained_model.pth"), wrong)


@needs_oracles
def test_whether_missing_experts_count_may_be_said_anew() -> None:
    """It is a way to compare, no fact about the weights."""
    file = Oracle("mmt", "two_experts").path("trained_model.pth")
    about = interpret(file, {"keep_missing_modalities": False}).about
    assert about.preprocessing["keep_missing_modalities"] is False


def test_the_mixture_weights_go_to_one_folder_and_the_rest_to_the_other(tmp_path: Path) -> None:
    convert(checkpoint(tmp_path / "a.pth"), tmp_path / "out", {**HEADS, **TYPES, "provenance": {"data": "MSR-VTT"}})
    adapted = folder.read_tensors(tmp_path / "out" / "adapter" / folder.ADAPTER_WEIGHTS)
    frozen = folder.read_tensors(tmp_path / "out" / "backbone" / folder.BACKBONE_WEIGHTS)
    assert adapted
    assert all(name.startswith("moe_fc_txt.") for name in adapted)
    assert not any(name.startswith("moe_fc_txt.") for name in frozen)
    about = json.loads((tmp_path / "out" / "adapter" / folder.ADAPTER_CONFIG).read_text())
    assert about["adapter"] is None
    assert about["provenance"] == {"converted_from": "a.pth", "format": "zip", "data": "MSR-VTT"}


def test_words_are_taken_if_there_is_a_tokenizer(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "a.pth")
    assert interpret(file, {**HEADS, **TYPES}).about.preprocessing["text"] is None
    given = {**HEADS, **TYPES, "assets": {"tokenizer.json": "anywhere"}, "max_text_words": 7}
    found = interpret(file, given).about.preprocessing
    assert found["text"] == {
        "kind": "bert",
        "file": "tokenizer.json",
        "max_length": 7,
        "pad": False,
        "lower_case": True,
        "max_words": 7,
        "sentence": True,
    }
    assert found["vocabulary"] == 20
    # A text has no more tokens than there are positions.
    assert interpret(file, {**HEADS, **TYPES}).about.preprocessing["max_tokens"] == 10


def test_names_of_the_released_code_are_read_too(tmp_path: Path) -> None:
    config, _, head = MMT.example()
    state = MMT.build(config, None, head).state_dict()
    torch.save({name.replace("text_GU", "text_gu"): value for name, value in state.items()}, tmp_path / "a.pth")
    assert interpret(tmp_path / "a.pth", {**HEADS, **TYPES}).host.config == config


def test_what_the_file_cannot_tell_is_asked_for_by_name(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "a.pth")
    for missing, given in {"video_heads": TYPES, "text_heads": {**TYPES, "video_heads": 2}}.items():
        with pytest.raises(CheckpointError, match=f"{missing} is not in the checkpoint.*--config"):
            interpret(file, given)
    state = {name.replace(".rgb.", ".smell."): value for name, value in state_dict(read(file)).items()}
    torch.save(state, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="token_types is not in the checkpoint"):
        interpret(tmp_path / "b.pth", HEADS)
    assert interpret(tmp_path / "b.pth", {**HEADS, "token_types": [1, 3]}).host.config.experts == ("smell", "speech")


def test_the_runs_own_configuration_file_will_do(tmp_path: Path) -> None:
    run = {
        "experts": {"face_dim": 512, "modalities": ["rgb", "speech"]},
        "arch": {
            "args": {
                "keep_missing_modalities": False,
                "vid_bert_params": {"num_attention_heads": 4},
                "txt_bert_params": {"num_attention_heads": 3},
            }
        },
        "train_sets": [{"args": {"mix": [{"max_expert_tokens": 5, "max_text_words": 8}]}}],
    }
    converted = interpret(checkpoint(tmp_path / "a.pth"), {**run, "token_types": [1, 3]})
    config = converted.host.config
    assert (config.num_heads, config.text.heads, config.tokens) == (4, 3, 5)
    assert converted.about.preprocessing["keep_missing_modalities"] is False
    assert converted.about.preprocessing["max_tokens"] == 8


@pytest.mark.parametrize(
    ("name", "value"),
    [("vid_wgh", "emb"), ("txt_pro", "lin"), ("out_tok", "sep"), ("pos_enc", "ordr"), ("txt_agg", "bertftnmxp")],
)
def test_another_architecture_is_refused(name: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{name} is '{value}'; only"):
        interpret(checkpoint(tmp_path / "a.pth"), {**HEADS, **TYPES, "arch": {"args": {name: value}}})


@pytest.mark.parametrize("run", [{"arch": 7}, {"arch": {"args": [1]}}, {"arch": {"args": {"vid_bert_params": 1}}}])
def test_a_configuration_that_is_none_is_refused(run: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="must be an object"):
        interpret(checkpoint(tmp_path / "a.pth"), {**HEADS, **TYPES, **run})


def test_published_sizes_are_known() -> None:
    """Of the published checkpoints only the heads of the video transformer must be said, or stored."""
    shapes = {
        "vid_bert.embeddings.position_embeddings.weight": (32, 512),
        "vid_bert.embeddings.token_type_embeddings.weight": (19, 512),
        "txt_bert.embeddings.word_embeddings.weight": (28996, 768),
        "txt_bert.embeddings.position_embeddings.weight": (512, 768),
        "txt_bert.embeddings.token_type_embeddings.weight": (2, 768),
        **{f"video_dim_reduce.{name}.fc.weight": (512, width) for name, (width, _) in PUBLISHED.items()},
        **{f"vid_bert.encoder.layer.{i}.intermediate.dense.weight": (3072, 512) for i in range(4)},
        **{f"txt_bert.encoder.layer.{i}.intermediate.dense.weight": (3072, 768) for i in range(12)},
    }
    weights = {name: torch.empty(*shape, device="meta") for name, shape in shapes.items()}
    config = host_config(weights, {}, {"video_heads": 4})
    assert (config.text.heads, config.tokens, config.layers, config.embed_dim) == (12, 30, 4, 512)
    assert config.token_types == (3, 7, 5, 1, 9, 6, 2)


@pytest.mark.parametrize(
    ("without", "changes", "complaint"),
    [
        ("moe_fc_txt.rgb.bias", {}, r"moe_fc_txt\.rgb\.bias is missing"),
        ("vid_bert.encoder.layer.0.intermediate.dense.weight", {}, r"layer\.0\.intermediate.*is missing"),
        ("", {"surplus": torch.zeros(3)}, "surplus is not expected"),
        ("", {"text_GU.rgb.cg.fc.bias": torch.zeros(3)}, r"text_GU\.rgb\.cg\.fc\.bias has shape"),
        ("", {"txt_bert.embeddings.word_embeddings.weight": torch.zeros(3)}, "word_embeddings.*no matrix"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    without: str, changes: dict[str, torch.Tensor], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=complaint):
        interpret(checkpoint(tmp_path / "a.pth", without=without, **changes), {**HEADS, **TYPES})
