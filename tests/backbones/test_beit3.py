"""The BEiT-3 host against the MultiWay-Adapter authors' modules, in both precisions, before and after its folds."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from export.fold import fold
from export.trace import trace
from tests.oracles import Oracle, difference, needs_oracles
from wander.adapters.wander import Wander
from wander.backbones.base import run
from wander.backbones.beit3 import BEiT3, BEiT3Config, interpolate_positions
from wander.checkpoints.convert import interpret
from wander.engines import EngineOptions, engines
from wander.errors import ConfigError

VARIANTS = (
    "learnable_scalar", "learnable_scalar_ln_out", "ln_in_enhance_off", "ln_in_enhance_on", "ln_none_enhance_off",
    "ln_none_enhance_on", "ln_out_enhance_off", "ln_out_enhance_on", "mode_text", "mode_vision", "plain",
    "scalar_default", "sequential",
)  # fmt: skip
each_variant = pytest.mark.parametrize("variant", VARIANTS)
each_precision = pytest.mark.parametrize(
    ("dtype", "suffix", "limit"), [(torch.float32, "", 1e-5), (torch.float64, "_f64", 1e-9)]
)


def read(variant: str, dtype: torch.dtype = torch.float32) -> tuple[Oracle, BEiT3]:
    oracle = Oracle("mwa_retrieval", variant)
    file = "beit3_plain.pth" if variant == "plain" else "checkpoint-9.pth"
    host = interpret(oracle.path(file), {"num_heads": oracle.sizes["num_heads"]}).host
    assert isinstance(host, BEiT3)
    return oracle, host.eval().to(dtype)


def small() -> BEiT3:
    """The example with weights that all matter."""
    torch.manual_seed(0)
    host = BEiT3.build(*BEiT3.example()).eval()
    for parameter in host.adapter_module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return host


def embed(host: BEiT3, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """All that the oracle holds: both embeddings, texts without their padding one by one, and the scores."""
    towers = host.towers("unused")
    image = run(towers["image"], {"image": inputs["image"]})["image_embedding"]
    texts = {name: inputs[name] for name in ("text_ids", "padding_mask")}
    text = run(towers["text"], texts)["text_embedding"]
    alone = []
    for i, length in enumerate((1 - texts["padding_mask"]).sum(1)):
        one = {name: rows[i : i + 1, :length] for name, rows in texts.items()}
        alone.append(run(towers["text"], one)["text_embedding"])
    unpadded = np.concatenate(alone)
    return {"image_embeds": image, "text_embeds": text, "text_embeds_unpadded": unpadded, "scores": image @ text.T}


@needs_oracles
@each_variant
@each_precision
def test_it_equals_the_reference_before_and_after_every_fold(
    variant: str, dtype: torch.dtype, suffix: str, limit: float
) -> None:
    oracle, host = read(variant, dtype)
    for rewrite in [None, *host.folds()]:
        if rewrite is not None:
            rewrite.apply()
        for name, value in embed(host, oracle.inputs).items():
            assert difference(value, oracle.outputs[name + suffix]) <= limit, (rewrite, name)


@needs_oracles
@each_variant
def test_it_equals_the_reference_with_its_extractors_zeroed(variant: str) -> None:
    """The enhancer stays as it is. What no pass runs changes nothing."""
    oracle, host = read(variant)
    with torch.no_grad():
        for name, parameter in host.named_parameters():
            if ".adaptmlp_" in name:
                parameter.zero_()
    found = embed(host, oracle.inputs)
    for name, adapted in (("image_embeds", "text"), ("text_embeds", "vision")):
        assert difference(found[name], oracle.outputs[f"{name}_adapters_zeroed"]) <= 1e-5
        runs = variant not in ("plain", "sequential") and variant != f"mode_{'vision' if adapted == 'text' else 'text'}"
        assert (difference(found[name], oracle.outputs[name]) > 1e-3) == runs


@needs_oracles
@pytest.mark.parametrize("variant", ["ln_out_enhance_on", "learnable_scalar", "mode_text"])
def test_zeroing_the_whole_adapter_leaves_the_plain_backbone(variant: str) -> None:
    oracle, host = read(variant)
    plain = BEiT3.build(host.config, None, BEiT3.Head()).eval()
    plain.load_state_dict({k: v for k, v in host.state_dict().items() if "adaptmlp" not in k and "enhance" not in k})
    host.adapter_module.zero_()
    for name, value in embed(plain, oracle.inputs).items():
        np.testing.assert_allclose(embed(host, oracle.inputs)[name], value, rtol=0, atol=1e-6)


@needs_oracles
@pytest.mark.parametrize(
    ("variant", "folds"),
    [
        ("ln_in_enhance_on", ["read_out", "scales", "norms", "adapter", "packed_attention"]),
        ("ln_out_enhance_on", ["read_out", "scales", "norms", "packed_attention"]),
        ("sequential", ["read_out", "scales", "norms", "packed_attention"]),
        ("plain", ["read_out", "scales", "norms", "packed_attention"]),
    ],
)
def test_an_adapter_is_merged_where_it_can_be(variant: str, folds: list[str]) -> None:
    _, host = read(variant)
    assert fold(host) == folds
    left = {name.rsplit(".", 3)[-3] for name in host.state_dict() if ".adaptmlp_" in name}
    assert left == (set() if "adapter" in folds or variant == "plain" else {"adaptmlp_text", "adaptmlp_vision"})


def test_the_read_out_saves_the_last_layer_for_all_tokens_but_one() -> None:
    config, _, head = BEiT3.example()
    host = BEiT3.build(config, None, head).eval()
    image = torch.randn(1, 3, config.image_size, config.image_size)
    width, tokens = config.embed_dim, config.patches + 1

    def flops() -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            host.image(image)
        return counter.get_total_flops()

    before = flops()
    host.folds()[0].apply()
    per_token = 2 * (2 * width**2 + 2 * width * tokens + 2 * width * config.ffn_dim)  # q, out; scores, mixing; FFN
    assert before - flops() == (tokens - 1) * per_token


def test_padding_a_text_does_not_change_it() -> None:
    host = small().double()
    rng = np.random.default_rng(0)
    tower = host.towers("unused")["text"]
    ids = rng.integers(3, host.config.vocab_size, (2, 6))
    short = run(tower, {"text_ids": ids, "padding_mask": np.zeros((2, 6), np.int64)})["text_embedding"]
    wide = np.concatenate([ids, rng.integers(0, 13, (2, 4))], 1)  # what stands under the padding does not matter
    mask = np.repeat([[0] * 6 + [1] * 4], 2, 0).astype(np.int64)
    long = run(tower, {"text_ids": wide, "padding_mask": mask})["text_embedding"]
    np.testing.assert_allclose(long, short, rtol=0, atol=1e-12)


@needs_oracles
@pytest.mark.parametrize(("variant", "folds"), [("ln_none_enhance_on", False), ("ln_in_enhance_on", True)])
def test_the_graphs_hold_their_own_weights_and_answer_for_any_batch_and_length(
    variant: str, folds: bool, tmp_path: Path
) -> None:
    _, host = read(variant)
    exported = copy.deepcopy(host)
    if folds:
        fold(exported)
    rng = np.random.default_rng(0)
    for name, tower in host.towers("unused").items():
        trace(exported, name, "unused", tmp_path / name)
        held = sum(int(np.prod(tensor.dims)) for tensor in onnx.load(tmp_path / name).graph.initializer)
        assert held <= weights_of(host, name) + 200  # a few shapes and constants, rows of positions that were looked up
        with engines.get("ort").open(tmp_path / name, tower.signature, EngineOptions()) as session:
            for rows, tokens in ((1, 1), (1, 9), (2, 2), (5, 40), (7, 3)):
                inputs = host.random_inputs(name, rows, rng)
                if name == "text":
                    lengths = rng.integers(1, tokens + 1, (rows, 1))
                    ids, mask = rng.integers(0, 71, (rows, tokens)), np.arange(tokens) >= lengths
                    inputs = {"text_ids": ids, "padding_mask": mask.astype(np.int64)}
                for key, value in session.run(inputs).items():
                    assert difference(value, run(tower, inputs)[key]) <= 1e-5


def weights_of(host: BEiT3, tower: str) -> int:
    """How many weights a tower needs; the enhancer is needed by both."""
    own = {
        "image": (".A.", "vision_embed.proj", "vision_embed.cls", "vision_head", ".adaptmlp_text", ".enhancemlp."),
        "text": (".B.", "text_embed", "language_head", ".adaptmlp_vision", ".enhancemlp."),
    }[tower]
    return sum(value.numel() for name, value in host.state_dict().items() if any(part in name for part in own))


@pytest.mark.parametrize(
    ("name", "image_size", "total"),
    [
        ("base", 224, 222_167_041),
        ("base", 384, 222_458_881),
        ("large", 224, 674_799_617),
        ("large", 384, 675_188_737),
    ],
)
def test_the_published_sizes_have_the_published_totals(name: Any, image_size: int, total: int) -> None:
    with torch.device("meta"):
        host = BEiT3.build(BEiT3Config.published(name, image_size), None, BEiT3.Head())
    assert sum(parameter.numel() for parameter in host.parameters()) == total


def test_each_part_of_the_adapter_is_registered_once_and_copied_with_its_layer() -> None:
    host = small()
    parameters = [id(parameter) for parameter in host.adapter_module.parameters()]
    assert set(parameters) <= {id(parameter) for parameter in host.parameters()}
    assert len(host.state_dict()) == len({id(parameter) for parameter in host.parameters()})
    copied = copy.deepcopy(host)
    copied.adapter_module.zero_()
    inputs = host.random_inputs("image", 1, np.random.default_rng(0))
    before, after = (run(h.towers("unused")["image"], inputs)["image_embedding"] for h in (host, copied))
    assert not np.allclose(before, after)


def test_what_retrieval_adds_is_adapted_and_the_rest_is_not() -> None:
    adapted, frozen = small().split_state()
    assert {name for name in adapted if not name.startswith("encoder.")} == {
        "language_head.weight", "vision_head.weight", "logit_scale",
    }  # fmt: skip
    parts = {name.split(".")[3] for name in adapted if name.startswith("encoder.")}
    assert parts == {"adaptmlp_text", "adaptmlp_vision", "enhancemlp"}
    assert not [name for name in frozen if "adapt" in name or "enhance" in name or "head" in name]


@needs_oracles
@pytest.mark.parametrize("variant", ["grid14_to_24", "grid3_to_5"])
def test_positions_are_interpolated_as_the_published_loader_does(variant: str) -> None:
    oracle = Oracle("mwa_position_interpolation", variant)
    stored, wanted = (arrays["embed_positions_A"] for arrays in (oracle.inputs, oracle.outputs))
    got = interpolate_positions(torch.from_numpy(stored), len(wanted) - 3)
    assert difference(got.numpy(), wanted) <= 1e-5
    assert torch.equal(interpolate_positions(torch.from_numpy(stored), len(stored) - 3), torch.from_numpy(stored))


@pytest.mark.parametrize(("rows", "patches"), [(12, 5), (13, 9)])
def test_positions_that_are_no_square_are_refused(rows: int, patches: int) -> None:
    with pytest.raises(ConfigError, match="square"):
        interpolate_positions(torch.zeros(rows, 4), patches)


def test_parts_that_do_not_fit_are_refused() -> None:
    config, adapter, head = BEiT3.example()
    with pytest.raises(ConfigError, match="does not fit"):
        BEiT3.build(config.model_copy(update={"layers": 3}), adapter, head)
    with pytest.raises(ConfigError, match="inside its layers"):
        BEiT3.build(config, Wander.example_config(), head)
    for changes in ({"num_heads": 3}, {"image_size": 9}):
        with pytest.raises(ValueError, match="does not divide"):
            BEiT3Config.model_validate({**config.model_dump(), **changes})
