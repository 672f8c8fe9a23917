"""Explanations of the late-fusion host, in float64 against what they claim: autograd and the scores themselves."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from export.fold import fold
from wander.adapters.wander import WanderConfig
from wander.backbones._attribution import mean_gradient, secant
from wander.backbones.late_fusion import LateFusion, LateFusionConfig, LateFusionHead

sizes = st.integers(1, 5)


@st.composite
def hosts(draw: st.DrawFn) -> LateFusion:
    """One to four modalities, any ranks, both forms, all random, in float64."""
    modalities = draw(st.integers(1, 4))
    lengths = tuple(draw(st.lists(sizes, min_size=modalities, max_size=modalities)))
    first_token_only = draw(st.booleans())
    adapter = WanderConfig(
        embed_dim=draw(st.integers(4, 9)),
        lengths=lengths,
        down_dim=draw(sizes),
        tokens=1 if first_token_only else draw(st.integers(1, sum(lengths))),
        rank_h=draw(sizes),
        rank_t=1 if first_token_only else draw(sizes),
        form=draw(st.sampled_from(["product_of_sums", "sum_of_products"])),
        activation=draw(st.sampled_from(["gelu", "relu", "none"])),
        residual=draw(st.booleans()),
        first_token_only=first_token_only,
    )
    return random_host(adapter, draw(st.integers(1, 4)), draw(st.integers(0, 2**32)))


def random_host(adapter: WanderConfig, out_dim: int, seed: int = 0) -> LateFusion:
    torch.manual_seed(seed)
    config = LateFusionConfig(
        modalities=tuple("abcd"[: len(adapter.lengths)]),
        feature_dims=(3,) * len(adapter.lengths),
        lengths=adapter.lengths,
        embed_dim=adapter.embed_dim,
        num_heads=1,
        encoder_layers=1,
    )
    host = LateFusion.build(config, adapter, LateFusionHead(out_dim=out_dim)).double().eval()
    for name, parameter in host.named_parameters():
        if name.startswith("adapter"):
            nn.init.normal_(parameter, std=0.7)
    return host


def features(host: LateFusion, rows: int = 3) -> list[Tensor]:
    return [torch.randn(rows, n, 3, dtype=torch.float64) for n in host.config.lengths]


def residual_score(host: LateFusion, inputs: list[Tensor]) -> Tensor:
    """The score of the same host with an adapter that adds nothing."""
    without = copy.deepcopy(host)
    assert without.adapter_module is not None
    without.adapter_module.zero_()
    return without(*inputs)


@settings(max_examples=60, deadline=None)
@given(host=hosts(), folded=st.booleans())
@torch.no_grad()
def test_every_modality_accounts_for_what_the_adapter_changed(host: LateFusion, folded: bool) -> None:
    inputs = features(host)
    score, residual = host(*inputs), residual_score(host, inputs)
    if folded:
        fold(host)
    adapted, alone, *contributions = host.explain(*inputs)
    torch.testing.assert_close(adapted, score, rtol=0, atol=1e-9)
    torch.testing.assert_close(alone, residual, rtol=0, atol=1e-9)
    assert len(contributions) == len(host.config.lengths)
    scale = max(1.0, float(score.abs().max()))
    for length, contribution in zip(host.config.lengths, contributions, strict=True):
        assert contribution.shape == (3, length, score.shape[1])
        torch.testing.assert_close(contribution.sum(1), score - residual, rtol=0, atol=1e-9 * scale)


@settings(max_examples=40, deadline=None)
@given(host=hosts())
def test_a_share_is_what_the_token_adds_while_the_others_stay(host: LateFusion) -> None:
    """The adapter is linear in the features of one modality: the derivative along them is the share."""
    adapter = host.adapter_module
    assert adapter is not None
    hidden = [torch.randn(2, n, host.config.embed_dim, dtype=torch.float64) for n in host.config.lengths]
    read = [h[:, :1] for h in hidden] if adapter.config.first_token_only else hidden
    with torch.no_grad():
        shares = adapter.shares(hidden)
        activated = {"gelu": nn.functional.gelu, "relu": nn.functional.relu, "none": lambda x: x}
        inside = [activated[adapter.config.activation](down(h)) for down, h in zip(adapter.down, read, strict=True)]
    for m, share in enumerate(shares):
        for token in range(host.config.lengths[m]):
            along = [torch.zeros_like(g) for g in inside]
            if token < along[m].shape[1]:
                along[m][:, token] = inside[m][:, token]
            _, derivative = torch.autograd.functional.jvp(lambda *g: adapter.fuse(g)[:, 0], tuple(inside), tuple(along))
            torch.testing.assert_close(share[:, token], derivative, rtol=1e-9, atol=1e-9)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32), width=st.integers(2, 6), classes=st.integers(1, 3))
def test_the_mean_gradient_is_that_of_autograd(seed: int, width: int, classes: int) -> None:
    """Against the midpoint rule, whose error is that of the stretches with a kink inside."""
    torch.manual_seed(seed)
    adapter = WanderConfig(embed_dim=2 * width, lengths=(2, 2, 2), down_dim=2, tokens=1)
    host = random_host(adapter, classes, seed)
    start, change = torch.randn(2, 1, 2 * width, dtype=torch.float64) * 3
    steps = 20_000
    times = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    points = (start + times[:, None] * change).requires_grad_()
    layers = host.out_layer_proj0, host.out_layer_proj1, host.out_layer_proj2, host.out_layer
    first = layers[0].weight.unflatten(1, (3, -1)).sum(1)
    found = mean_gradient(start, change, first, *layers)[0]
    scores = host.head(torch.cat([points] * 3, 1))
    for number in range(classes):
        (gradient,) = torch.autograd.grad(scores[:, number].sum(), points, retain_graph=True)
        torch.testing.assert_close(found[number], gradient.mean(0), rtol=0, atol=2e-3)


def test_where_nothing_moves_the_gradient_is_that_of_the_point() -> None:
    """An adapter that adds nothing: no division by zero, and every contribution is zero."""
    host = random_host(WanderConfig(embed_dim=4, lengths=(2, 3), down_dim=2, tokens=1), 2)
    assert host.adapter_module is not None
    host.adapter_module.zero_()
    start = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    layers = host.out_layer_proj0, host.out_layer_proj1, host.out_layer_proj2, host.out_layer
    found = mean_gradient(start, torch.zeros_like(start), layers[0].weight.unflatten(1, (2, -1)).sum(1), *layers)
    for number, score in enumerate(host.head(torch.cat([start] * 2, 1))[0]):
        (gradient,) = torch.autograd.grad(score, start, retain_graph=True)
        torch.testing.assert_close(found[:, number], gradient)
    adapted, alone, *contributions = host.explain(*features(host))
    torch.testing.assert_close(adapted, alone)
    assert not any(bool(contribution.any()) for contribution in contributions)


@given(low=st.floats(-1e30, 1e30), high=st.floats(-1e30, 1e30))
def test_secants(low: float, high: float) -> None:
    ends = torch.tensor([[[low], [high]]], dtype=torch.float64)
    slope = float(secant(ends))
    if low == high:
        assert slope == (low > 0)
    else:
        rise = max(high, 0.0) - max(low, 0.0)
        assert slope == pytest.approx(rise / (high - low), abs=1e-12)


def test_a_host_without_an_adapter_of_this_kind_explains_nothing() -> None:
    config, _, head = LateFusion.example()
    bare = LateFusion.build(config, None, head)
    assert bare.explanation("score") is None
    assert set(bare.graphs("score")) == {"model"}
