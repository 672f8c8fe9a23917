"""The food host against the authors' checkpoints, stage by stage, in both precisions and both attention layouts."""

from __future__ import annotations

import copy
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

from export.trace import trace
from tests.oracles import Oracle, difference, needs_oracles
from wander.adapters.wander import WanderConfig
from wander.backbones.base import run
from wander.backbones.bert_vit import BertViT, BertViTConfig, BertViTHead
from wander.checkpoints.convert import interpret
from wander.checkpoints.formats.wander_food import NEW_NAMES
from wander.errors import CheckpointError, ConfigError

LAYOUTS = ("normal", "released_b1")
each_layout = pytest.mark.parametrize("layout", LAYOUTS)
each_precision = pytest.mark.parametrize(
    ("dtype", "suffix", "limit"), [(torch.float32, "", 1e-5), (torch.float64, "_f64", 1e-9)]
)


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle("wander_food_fusion", "e24")


def host_of(oracle: Oracle, file: str, layout: str, dtype: torch.dtype) -> BertViT:
    host = interpret(oracle.path(file), {**oracle.sizes, "attention_layout": layout}).host
    assert isinstance(host, BertViT)
    return host.eval().to(dtype)


def raw(oracle: Oracle, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    image, ids, mask = (torch.from_numpy(oracle.inputs[n]) for n in ("pixel_values", "input_ids", "attention_mask"))
    return image.to(dtype), ids, mask


def states(oracle: Oracle, host: BertViT, dtype: torch.dtype) -> list[torch.Tensor]:
    """The stored outputs of the towers, in the scale at which the host's fusion encoder takes them."""
    scale = math.sqrt(host.config.embed_dim) / host.fusion.scale
    return [torch.from_numpy(oracle.inputs[name]).to(dtype) * scale for name in ("vision_hidden", "text_hidden")]


def folded(host: BertViT) -> BertViT:
    """A copy with all folds applied."""
    rewritten = copy.deepcopy(host)
    for fold in rewritten.folds():
        fold.apply()
    return rewritten


@needs_oracles
@each_precision
def test_the_towers_equal_the_reference(oracle: Oracle, dtype: torch.dtype, suffix: str, limit: float) -> None:
    with torch.inference_mode():
        vision, text = host_of(oracle, "state_dict.pt", "normal", dtype).hidden(*raw(oracle, dtype))
    stored = oracle.outputs if suffix else oracle.inputs
    assert difference(vision.numpy(), stored[f"vision_hidden{suffix}"]) <= limit
    assert difference(text.numpy(), stored[f"text_hidden{suffix}"]) <= limit


@needs_oracles
@each_layout
@each_precision
@pytest.mark.parametrize("file", ["state_dict.pt", "whole_module.pt"])
def test_every_stage_equals_the_reference(
    oracle: Oracle, file: str, layout: str, dtype: torch.dtype, suffix: str, limit: float
) -> None:
    host = host_of(oracle, file, layout, dtype)
    with torch.inference_mode():
        fused = host.fused(*states(oracle, host, dtype))
        tokens = host.adapter(fused)
        logits = host.logits(fused)
        whole = host(*raw(oracle, dtype))
        host.adapter_module.zero_()
        bypassed = host.logits(fused)
    for name, value in zip(("vision", "text"), fused, strict=True):
        assert difference(value.numpy(), oracle.outputs[f"fused_{name}_{layout}{suffix}"]) <= limit
    assert difference(tokens.numpy(), oracle.outputs[f"adapter_tokens_{layout}{suffix}"]) <= limit
    assert difference(logits.numpy(), oracle.outputs[f"logits_{layout}{suffix}"]) <= limit
    assert difference(whole.numpy(), oracle.outputs[f"logits_{layout}"]) <= 1e-5
    assert difference(bypassed.numpy(), oracle.outputs[f"logits_factor_t_zeroed_{layout}{suffix}"]) <= limit
    assert not np.allclose(bypassed.numpy(), logits.numpy())


@needs_oracles
@each_layout
@each_precision
@pytest.mark.parametrize(
    ("file", "output"),
    [
        ("state_dict.pt", "logits"),
        ("state_dict.pt", "logits_factor_t_zeroed"),
        ("base_state_dict.pt", "base_logits"),
    ],
)
def test_the_answer_equals_the_reference_before_and_after_the_folds(
    oracle: Oracle, file: str, output: str, layout: str, dtype: torch.dtype, suffix: str, limit: float
) -> None:
    host = host_of(oracle, file, layout, dtype)
    if output == "logits_factor_t_zeroed":
        host.adapter_module.zero_()
    for rewritten in (host, folded(host)):
        with torch.inference_mode():
            logits = rewritten.logits(rewritten.fused(*states(oracle, rewritten, dtype)))
            whole = rewritten(*raw(oracle, dtype))
        assert difference(logits.numpy(), oracle.outputs[f"{output}_{layout}{suffix}"]) <= limit
        assert difference(whole.numpy(), oracle.outputs[f"{output}_{layout}"]) <= 1e-5


def small(kind: str = "wander", layout: str = "normal", head: str = "relu") -> BertViT:
    """A host in which every weight matters: with its usual adapter, one that fuses first tokens, or none."""
    torch.manual_seed(0)
    config, adapter, _ = BertViT.example()
    assert isinstance(config, BertViTConfig)
    assert isinstance(adapter, WanderConfig)
    if kind == "first_token":
        adapter = adapter.model_copy(update={"first_token_only": True, "tokens": 1, "rank_t": 1})
    sizes = config.model_copy(update={"attention_layout": layout})
    host = BertViT.build(sizes, None if kind == "none" else adapter, BertViTHead(out_dim=3, activation=head)).eval()
    for name, parameter in host.named_parameters():
        norm = ".layer" in name and "norm" in name.lower() and name.endswith("weight")
        torch.nn.init.normal_(parameter, mean=1.0 if norm else 0.0, std=0.3)
    return host


EACH_HOST = [(kind, layout) for kind in ("wander", "first_token", "none") for layout in LAYOUTS]


@pytest.mark.parametrize(("kind", "layout"), EACH_HOST)
def test_each_fold_is_exact_for_every_layout_and_adapter(kind: str, layout: str) -> None:
    host = small(kind, layout).double()
    tower = host.towers("logits")["model"]
    inputs = host.random_inputs("model", 3, np.random.default_rng(0))
    exact = run(tower, inputs)["logits"]
    names = []
    for fold in host.folds():
        fold.apply()
        names.append(fold.name)
        assert float(np.abs(run(tower, inputs)["logits"] - exact).max()) < 1e-9, fold.name
    assert ("own_value" in names) == (layout == "released_b1")
    assert ("read_tokens" in names) == (kind != "wander")


@pytest.mark.parametrize(("kind", "layout"), [("wander", "normal"), ("first_token", "normal"), ("none", "released_b1")])
def test_the_exported_graph_answers_at_every_batch_size(kind: str, layout: str, tmp_path: Path) -> None:
    host = small(kind, layout)
    trace(folded(host), "model", "logits", tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_inputs()] == ["image", "input_ids", "attention_mask"]
    for rows in (1, 2, 7):
        inputs = host.random_inputs("model", rows, np.random.default_rng(rows))
        expected = run(host.towers("logits")["model"], inputs)["logits"]
        assert difference(session.run(["logits"], inputs)[0], expected) <= 1e-5


@needs_oracles
@each_layout
def test_an_item_alone_answers_as_in_a_batch(oracle: Oracle, layout: str) -> None:
    host = host_of(oracle, "state_dict.pt", layout, torch.float64)
    inputs = raw(oracle, torch.float64)
    with torch.inference_mode():
        together = host(*inputs)
        alone = torch.cat([host(*(value[row : row + 1] for value in inputs)) for row in range(len(together))])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_bert_is_told_what_is_padding_and_the_fusion_encoder_is_not() -> None:
    host = small().double()
    tower = host.towers("logits")["model"]
    inputs = host.random_inputs("model", 1, np.random.default_rng(0))
    inputs["attention_mask"] = np.array([[1, 1, 0, 0]])
    ids = inputs["input_ids"] = np.array([[5, 6, 0, 0]])
    masked = run(tower, inputs)["logits"]
    assert not np.allclose(masked, run(tower, {**inputs, "attention_mask": np.ones_like(ids)})["logits"])
    other = torch.from_numpy(np.array([[5, 6, 9, 9]]))
    image, mask = torch.from_numpy(inputs["image"]).double(), torch.from_numpy(inputs["attention_mask"])
    with torch.inference_mode():
        _, text = host.hidden(image, torch.from_numpy(ids), mask)
        _, changed = host.hidden(image, other, mask)
    torch.testing.assert_close(text[:, :2], changed[:, :2], rtol=0, atol=0)  # padding has a weight of exactly 0
    assert not np.allclose(masked, run(tower, {**inputs, "input_ids": other.numpy()})["logits"])


def test_a_text_without_its_padding_is_another_so_that_no_shorter_graph_is_exact() -> None:
    """Two tokens of four: as a graph of length two would have them, and with zeros for what BERT says at padding."""
    host = small().double()
    config, adapter = host.config, host.adapter_module
    assert adapter is not None
    lengths = (config.vit.tokens, 2)
    cut = adapter.config.model_copy(update={"lengths": lengths})
    short = BertViT.build(config.model_copy(update={"text_length": 2}), cut, BertViTHead(out_dim=3)).double().eval()
    state = host.state_dict()
    state["adapter.factor_t_list.1"] = state["adapter.factor_t_list.1"][:, :2]
    short.load_state_dict(state)
    inputs = host.random_inputs("model", 1, np.random.default_rng(0))
    image, ids = torch.from_numpy(inputs["image"]).double(), torch.tensor([[5, 6, 0, 0]])
    mask = (ids != 0).long()
    with torch.inference_mode():
        vision, text = host.hidden(image, ids, mask)
        same_vision, kept = short.hidden(image, ids[:, :2], mask[:, :2])
        torch.testing.assert_close(same_vision, vision, rtol=0, atol=1e-12)
        torch.testing.assert_close(kept, text[:, :2], rtol=0, atol=1e-12)  # up to here nothing has changed
        logits = host.logits(host.fused(vision, text))
        dropped = short.logits(short.fused(vision, kept))
        zeroed = host.logits(host.fused(vision, text * mask[:, :, None]))
    assert float((dropped - logits).abs().max()) > 1e-3
    assert float((zeroed - logits).abs().max()) > 1e-3


def test_a_token_whose_first_feature_is_zero_has_no_position() -> None:
    """A last norm with scale and shift 0 in its first feature makes every image token such a token."""
    host = small().double()
    norm = host.vision_encoder.layernorm
    with torch.no_grad():
        norm.weight[0] = norm.bias[0] = 0
    inputs = host.random_inputs("model", 2, np.random.default_rng(0))
    tower = host.towers("logits")["model"]
    before = run(tower, inputs)["logits"]
    host.fusion.positions[1 : host.config.vit.tokens + 1] = 9
    np.testing.assert_array_equal(run(tower, inputs)["logits"], before)
    host.fusion.positions[host.config.vit.tokens + 1 :] = 9
    assert not np.allclose(run(tower, inputs)["logits"], before)


def test_without_an_adapter_the_released_layout_never_looks_at_the_text() -> None:
    host = small("none", "released_b1")
    inputs = host.random_inputs("model", 2, np.random.default_rng(0))
    other = {**inputs, "input_ids": 1 + inputs["input_ids"][:, ::-1] % 3}
    for layout in LAYOUTS:
        tower = small("none", layout).towers("logits")["model"]
        same = np.array_equal(run(tower, inputs)["logits"], run(tower, other)["logits"])
        assert same == (layout == "released_b1")


def test_the_activation_of_the_head_is_an_option() -> None:
    relu, gelu = small(head="relu"), small(head="gelu")
    inputs = relu.random_inputs("model", 2, np.random.default_rng(0))
    answers = [run(host.towers("logits")["model"], inputs)["logits"] for host in (relu, gelu)]
    assert not np.allclose(*answers)


def test_the_published_sizes_have_the_published_number_of_parameters() -> None:
    """ViT 86.39M, BERT 109.48M, fusion 14.18M, head 0.668M; the first two with their poolers, which are not in here."""
    sizes = {"layers": 12, "heads": 12, "intermediate": 3072}
    config = BertViTConfig.model_validate({"embed_dim": 768, "vit": sizes, "bert": {**sizes, "vocab": 30522}})
    assert config.lengths == (197, 50)
    with torch.device("meta"):
        host = BertViT.build(config, None, BertViTHead(out_dim=101))
    pooler = 768 * 768 + 768
    counted = {name: sum(p.numel() for p in part.parameters()) for name, part in host.named_children()}
    assert counted["vision_encoder"] + pooler == 86_389_248
    assert counted["text_encoder"] + pooler == 109_482_240
    assert counted["fusion"] == 14_177_280
    assert counted["proj1"] + counted["out_layer"] == 668_261
    assert not [name for name in host.state_dict() if "pooler" in name]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"fusion_heads": 3}, "3 heads of fusion do not divide"),
        ({"vit": {"heads": 5}}, "5 heads of vit do not divide"),
        ({"vit": {"image_size": 9}}, "patch_size 4 does not divide image_size 9"),
        ({"text_length": 7}, "text_length 7 is more than max_positions 6"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes: dict[str, Any], complaint: str) -> None:
    config = BertViT.example()[0].model_dump()
    for name, value in changes.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
    with pytest.raises(ValueError, match=complaint):
        BertViTConfig.model_validate(config)


def test_an_adapter_of_other_lengths_is_refused() -> None:
    config, adapter, head = BertViT.example()
    with pytest.raises(ConfigError, match=r"lengths \[5, 3\].*does not fit.*lengths \[5, 4\]"):
        BertViT.build(config, adapter.model_copy(update={"lengths": (5, 3)}), head)


def test_the_package_of_the_towers_is_loaded_only_for_a_tower() -> None:
    """It takes seconds, and asking which format or host a checkpoint is must not cost them."""
    check = (
        "import sys, wander.checkpoints.formats as f, wander.backbones as b; list(f.formats); b.hosts.get('bert_vit'); "
        "assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


Publish = Callable[..., tuple[str, str]]


@pytest.fixture
def publish(tmp_path: Path) -> Publish:
    """Writes tiny towers with their heads and poolers, as they are published; gives their folders."""
    import transformers

    def write(vision_width: int = 8, vision_options: dict[str, Any] | None = None) -> tuple[str, str]:
        torch.manual_seed(0)
        sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 9}
        vit = transformers.ViTConfig(
            hidden_size=vision_width, image_size=8, patch_size=4, **sizes, **(vision_options or {})
        )
        bert = transformers.BertConfig(hidden_size=8, vocab_size=30, max_position_embeddings=7, **sizes)
        transformers.ViTForImageClassification(vit).save_pretrained(tmp_path / "vision")
        transformers.BertForMaskedLM(bert).save_pretrained(tmp_path / "text")
        return str(tmp_path / "vision"), str(tmp_path / "text")

    return write


def weights_of(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


OPTIONS = {"text_length": 5, "fusion_heads": 2}


def test_towers_come_from_published_folders(publish: Publish) -> None:
    import transformers

    vision, text = publish()
    config = BertViTConfig.from_pretrained(vision, text, **OPTIONS)
    adapter = WanderConfig(embed_dim=8, lengths=config.lengths, down_dim=3, tokens=3)
    host = BertViT.from_pretrained(vision, text, adapter, BertViTHead(out_dim=3), **OPTIONS).eval()
    assert host.config == config
    assert config.lengths == (5, 5)
    inputs = host.random_inputs("model", 2, np.random.default_rng(0))
    image, ids, mask = (torch.from_numpy(inputs[name]) for name in ("image", "input_ids", "attention_mask"))
    with torch.inference_mode():
        states = host.hidden(image, ids, mask)
        expected = (
            transformers.ViTForImageClassification.from_pretrained(vision).vit(image).last_hidden_state,
            transformers.BertForMaskedLM.from_pretrained(text).bert(ids, mask).last_hidden_state,
        )
    for state, reference in zip(states, expected, strict=True):
        torch.testing.assert_close(state, reference)


def test_published_weights_may_have_the_names_of_version_4(publish: Publish) -> None:
    vision, text = publish()
    stored = weights_of(vision)
    names = {new: old for old, new in NEW_NAMES.items()}
    pattern = re.compile(rf"^vit\.layers\.(\d+)\.({'|'.join(map(re.escape, names))})\.")
    old = {pattern.sub(lambda m: f"vit.encoder.layer.{m[1]}.{names[m[2]]}.", name): v for name, v in stored.items()}
    assert "vit.encoder.layer.1.attention.attention.query.weight" in old
    save_file(old, Path(vision) / "model.safetensors", metadata={"format": "pt"})
    host = BertViT.from_pretrained(vision, text, None, BertViTHead(out_dim=3), **OPTIONS)
    query = host.vision_encoder.layers[1].attention.q_proj.weight
    assert torch.equal(query, old["vit.encoder.layer.1.attention.attention.query.weight"])


def test_published_towers_that_do_not_serve_are_refused(publish: Publish, tmp_path: Path) -> None:
    def attempt(vision: str, text: str) -> None:
        BertViT.from_pretrained(vision, text, None, BertViTHead(out_dim=3), **OPTIONS)

    vision, text = publish()
    with pytest.raises(CheckpointError, match="is no local folder nor a model that can be fetched"):
        attempt(str(tmp_path / "absent"), text)
    with pytest.raises(ConfigError, match="is a model of type 'bert', not 'vit'"):
        attempt(text, text)
    whole = weights_of(text)
    name = "bert.encoder.layer.1.output.dense.weight"
    file = Path(text) / "model.safetensors"
    save_file({key: v for key, v in whole.items() if key != name}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"encoder\.layer\.1\.output\.dense\.weight is missing"):
        attempt(vision, text)
    save_file({**whole, name: torch.zeros(3, 3)}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"dense\.weight has shape \[3, 3\], not \[8, 9\]"):
        attempt(vision, text)
    file.unlink()
    torch.save(whole, Path(text) / "pytorch_model.bin")  # a pickle is not even looked at
    with pytest.raises(CheckpointError, match="no safetensors file that can be read"):
        attempt(vision, text)
    with pytest.raises(ConfigError, match=r"is 12 wide and .* 8"):
        attempt(publish(vision_width=12)[0], text)
    with pytest.raises(ConfigError, match="hidden_act 'relu'; a tower here has 'gelu'"):
        attempt(publish(vision_options={"hidden_act": "relu"})[0], text)
