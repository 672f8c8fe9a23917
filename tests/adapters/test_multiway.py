"""The MultiWay-Adapter's parts, alone: formulas, counts, folds, warnings."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from wander.adapters.multiway import EXTRACTOR, Extractor, FeedForward, MultiWay, MultiWayConfig

OPTIONS = [
    pytest.param(layernorm, scalar, id=f"{layernorm}-{scalar}")
    for layernorm, scalar in product(("none", "in", "out"), (0.6, 1.0, "learnable"))
]


def sizes(**changes: Any) -> MultiWayConfig:
    return MultiWay.example_config().model_copy(update=changes)


def filled(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module.double()


@pytest.mark.parametrize(("layernorm", "scalar"), OPTIONS)
def test_an_extractor_is_its_formula(layernorm: str, scalar: float | str) -> None:
    part = filled(Extractor(sizes(layernorm=layernorm, scalar=scalar)))
    weights = dict(part.named_parameters())
    x = torch.randn(2, 3, 8, dtype=torch.float64)

    def norm(y: torch.Tensor) -> torch.Tensor:
        scale, shift = (weights[f"adapter_layer_norm_before.{name}"] for name in ("weight", "bias"))
        centred = y - y.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * scale + shift

    read = norm(x) if layernorm == "in" else x
    down = torch.relu(read @ weights["down_proj.weight"].T + weights["down_proj.bias"])
    up = (down @ weights["up_proj.weight"].T + weights["up_proj.bias"]) * weights.get("scale", scalar)
    torch.testing.assert_close(part(x), norm(up) if layernorm == "out" else up, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("layernorm", "scalar"), OPTIONS)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_the_scalar_folds_into_the_up_projection(
    layernorm: str, scalar: float | str, dtype: torch.dtype, limit: float
) -> None:
    part = filled(Extractor(sizes(layernorm=layernorm, scalar=scalar))).to(dtype)
    x = torch.randn(2, 3, 8, dtype=dtype)
    with torch.no_grad():
        before = part(x)
        part.fold_scale_()
        after = part(x)
    assert "scale" not in dict(part.named_parameters())
    assert float((after - before).abs().max()) < limit * max(1.0, float(before.abs().max()))


@pytest.mark.parametrize(("layernorm", "scalar"), OPTIONS)
def test_zeroed_it_adds_nothing(layernorm: str, scalar: float | str) -> None:
    adapter = MultiWay.build(sizes(layernorm=layernorm, scalar=scalar))
    filled(adapter)
    assert adapter.warnings() == []
    adapter.zero_()
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    for parts in adapter.parts():
        for part in (*parts.extractors(), parts.enhancemlp):
            assert not part(x).any()
    assert [warning.split()[0] for warning in adapter.warnings()] == ["adaptmlp_text", "adaptmlp_vision"]


@pytest.mark.parametrize("layernorm", ["none", "in"])
def test_a_new_extractor_adds_nothing_and_can_learn(layernorm: str) -> None:
    part = Extractor(sizes(layernorm=layernorm))
    y = part(torch.randn(2, 3, 8))
    assert not y.any()
    assert part.adds_nothing()
    y.sum().backward()
    assert part.up_proj.weight.grad is not None
    assert part.up_proj.weight.grad.any()


def test_the_enhancer_is_a_feed_forward_block_with_a_norm_inside() -> None:
    part = filled(FeedForward(8, 12))
    z = torch.randn(2, 3, 8, dtype=torch.float64)
    hidden = F.layer_norm(F.gelu(part.fc1(z)), (12,), part.ffn_layernorm.weight, part.ffn_layernorm.bias, 1e-5)
    torch.testing.assert_close(part(z), part.fc2(hidden), rtol=0, atol=1e-12)
    assert not [name for name, _ in FeedForward(8, 12, norm=False).named_parameters() if "norm" in name]


@pytest.mark.parametrize(
    ("embed_dim", "layers", "extractors", "enhancer"),
    [(768, 12, 2_379_264, 56_742_912), (1024, 24, 6_343_680, 201_646_080)],
)
def test_the_counts_are_those_of_the_released_code(embed_dim: int, layers: int, extractors: int, enhancer: int) -> None:
    """Base and large, extractors of width 64 for both modalities, enhancers of width 4E."""
    config = MultiWayConfig(embed_dim=embed_dim, layers=layers, extractor_width=64)
    assert MultiWay.parameter_count(config) == extractors
    both = config.model_copy(update={"enhancer_width": 4 * embed_dim})
    assert MultiWay.parameter_count(both) == extractors + enhancer


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mode": "text"},
        {"layernorm": "out", "scalar": 0.1},
        {"layernorm": "in", "enhancer_width": None},
        {"enhancer_norm": False},
        {"mode": "vision", "enhancer_width": None},
    ],
)
def test_the_count_is_that_of_the_module(changes: dict[str, Any]) -> None:
    config = sizes(**changes)
    assert MultiWay.parameter_count(config) == sum(p.numel() for p in MultiWay.build(config).parameters())


@pytest.mark.parametrize("changes", [{}, {"enhancer_width": None}])
def test_the_flops_are_those_of_one_token(changes: dict[str, Any]) -> None:
    config = sizes(**changes)
    adapter = MultiWay.build(config)
    token = torch.randn(1, 1, config.embed_dim)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for parts in adapter.parts():
            assert parts.adaptmlp_text is not None
            parts.adaptmlp_text(token)
            if parts.enhancemlp is not None:
                parts.enhancemlp(token)
    assert counter.get_total_flops() == MultiWay.flops(config)


def test_names_are_those_of_the_authors() -> None:
    names = {name for name in MultiWay.build(sizes(layernorm="in")).state_dict() if name.startswith("layers.1.")}
    linear = ("weight", "bias")
    extractor = {f"{part}.{p}" for part in ("down_proj", "up_proj", "adapter_layer_norm_before") for p in linear}
    enhancer = {f"layers.1.enhancemlp.{part}.{p}" for part in ("fc1", "fc2", "ffn_layernorm") for p in linear}
    extractors = {f"layers.1.{name}.{part}" for name in EXTRACTOR.values() for part in extractor | {"scale"}}
    assert names == extractors | enhancer


def test_a_part_that_is_never_used_is_warned_of() -> None:
    assert "runs no extractor" in MultiWay.build(sizes(option="sequential")).warnings()[0]
    for mode, absent, modality in (("text", "adaptmlp_vision", "texts"), ("vision", "adaptmlp_text", "images")):
        adapter = MultiWay.build(sizes(mode=mode))
        filled(adapter)
        assert adapter.warnings() == [f"mode {mode}: there is no {absent}, which is what {modality} would run"]
