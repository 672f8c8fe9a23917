"""The late-fusion host against the authors' checkpoints, stage by stage, in both precisions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.oracles import LATE_FUSION, Oracle, difference, needs_oracles
from wander.backbones._bounded_attention import BOUND, BoundedAttention, score_bound
from wander.backbones._encoder import Encoder, EncoderLayer, SelfAttention, sinusoidal_positions
from wander.backbones.late_fusion import LateFusion, LateFusionConfig, LateFusionHead
from wander.checkpoints.convert import interpret
from wander.errors import ConfigError


def host_of(path: Path, oracle: Oracle) -> LateFusion:
    host = interpret(path, oracle.sizes).host
    assert isinstance(host, LateFusion)
    return host.eval()


def features(oracle: Oracle, dtype: torch.dtype) -> list[torch.Tensor]:
    return [torch.from_numpy(oracle.inputs[name]).to(dtype) for name in oracle.sizes["modalities"]]


@needs_oracles
@pytest.mark.parametrize("variant", LATE_FUSION)
@pytest.mark.parametrize("file", ["whole_module.pt", "state_dict.pt"])
@pytest.mark.parametrize(("dtype", "suffix", "limit"), [(torch.float32, "", 1e-5), (torch.float64, "_f64", 1e-9)])
def test_every_stage_equals_the_reference(
    variant: str, file: str, dtype: torch.dtype, suffix: str, limit: float
) -> None:
    oracle = Oracle("wander_late_fusion", variant)
    host = host_of(oracle.path(file), oracle).to(dtype)
    inputs = features(oracle, dtype)
    with torch.inference_mode():
        hidden = host.hidden(*inputs)
        tokens = host.adapter(hidden)
        output = host(*inputs)
    for name, value in zip(oracle.sizes["modalities"], hidden, strict=True):
        assert difference(value.numpy(), oracle.outputs[f"h_{name}{suffix}"]) <= limit
    assert difference(tokens.numpy(), oracle.outputs[f"adapter_tokens{suffix}"]) <= limit
    assert difference(output.numpy(), oracle.outputs[f"output{suffix}"]) <= limit
    host.adapter_module.zero_()
    with torch.inference_mode():
        bypassed = host(*inputs)
    assert difference(bypassed.numpy(), oracle.outputs[f"output_factor_t_zeroed{suffix}"]) <= limit
    assert not np.allclose(bypassed.numpy(), output.numpy())


@needs_oracles
@pytest.mark.parametrize("variant", LATE_FUSION)
@pytest.mark.parametrize(("dtype", "suffix", "limit"), [(torch.float32, "", 1e-5), (torch.float64, "_f64", 1e-9)])
def test_the_host_without_an_adapter_equals_the_reference(
    variant: str, dtype: torch.dtype, suffix: str, limit: float
) -> None:
    oracle = Oracle("wander_late_fusion", variant)
    host = host_of(oracle.path("base_whole_module.pt"), oracle).to(dtype)
    inputs = features(oracle, dtype)
    with torch.inference_mode():
        concatenated = torch.cat([h[:, 0] for h in host.hidden(*inputs)], 1)
        output = host(*inputs)
    assert difference(concatenated.numpy(), oracle.outputs[f"base_concat{suffix}"]) <= limit
    assert difference(output.numpy(), oracle.outputs[f"base_output{suffix}"]) <= limit


def test_positions_follow_the_first_feature_of_a_token() -> None:
    """A token whose first feature is exactly 0 counts as padding and gets none, whatever its other features are."""
    torch.manual_seed(0)
    encoder = Encoder(8, 2, 0, 5)
    x = torch.randn(1, 5, 8)
    x[0, 2, 0] = 0
    with torch.no_grad():
        got = encoder(x)
        table = sinusoidal_positions(6, 8)[1:].clone()
        table[2] = 0
        want = encoder.layer_norm(x * 8**0.5 + table)
    torch.testing.assert_close(got, want)


def test_the_position_table_is_sines_then_cosines_with_a_zero_column_for_odd_widths() -> None:
    table = sinusoidal_positions(4, 7)
    assert table.shape == (4, 7)
    frequency = np.exp(-np.log(10000) / 2)
    np.testing.assert_allclose(table[3, :3], np.sin(3 * frequency ** np.arange(3)), rtol=1e-6)
    np.testing.assert_allclose(table[3, 3:6], np.cos(3 * frequency ** np.arange(3)), rtol=1e-6)
    assert not table[:, 6].any()


def test_standardised_padding_is_exactly_zero() -> None:
    """A row of the training mean standardises to 0, so that padding with it is padding with zeros after it."""
    host = LateFusion.build(*LateFusion.example())
    for mean, std in zip(host.feature_mean, host.feature_std, strict=True):
        torch.nn.init.normal_(mean)
        torch.nn.init.uniform_(std, 0.5, 2.0)
    plain = LateFusion.build(
        host.config.model_copy(update={"standardise": False}), host.adapter_module.config, LateFusionHead(out_dim=2)
    )
    plain.load_state_dict({name: v for name, v in host.state_dict().items() if not name.startswith("feature_")})
    raw = [mean.expand(1, n, -1) for mean, n in zip(host.feature_mean, host.config.lengths, strict=True)]
    zeros = [torch.zeros_like(x) for x in raw]
    with torch.no_grad():
        torch.testing.assert_close(host(*raw), plain(*zeros), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"num_heads": 3}, "does not divide"),
        ({"embed_dim": 16}, "does not fit"),
        ({"lengths": (4, 3, 6)}, "does not fit"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, object], complaint: str) -> None:
    config, adapter, head = LateFusion.example()
    with pytest.raises(ConfigError, match=complaint):
        LateFusion.build(config.model_copy(update=changes), adapter, head)


def test_sizes_of_each_modality_are_needed() -> None:
    with pytest.raises(ValueError, match="feature_dims"):
        LateFusionConfig(
            modalities=("a", "b"), feature_dims=(1,), lengths=(1, 1), embed_dim=4, num_heads=1, encoder_layers=1
        )


@pytest.mark.parametrize("keep", [None, slice(1), slice(2, 4)])
def test_attention_with_the_tokens_last_is_the_same(keep: slice | None) -> None:
    """Also where only some tokens are read, with every bias at work."""
    torch.manual_seed(0)
    attention = SelfAttention(12, 4, 0.0).double().eval()
    for bias in (attention.in_proj_bias, attention.out_proj.bias):
        torch.nn.init.normal_(bias)
    x = torch.randn(3, 5, 12, dtype=torch.float64)
    with torch.no_grad():
        before = attention(x, keep)
        attention.fold_tokens_last_()
        assert (attention(x, keep) - before).abs().max() < 1e-12
        attention.fold_scale_()
        assert (attention(x, keep) - before).abs().max() < 1e-12


def layer_of(scale: float, dtype: torch.dtype = torch.float64) -> EncoderLayer:
    """A layer with every bias at work, whose scores grow with the square of `scale`."""
    torch.manual_seed(0)
    layer = EncoderLayer(12, 4, 0.0, 0.0, 0.0).to(dtype).eval()
    attention, norm = layer.self_attn, layer.layer_norms[0]
    for parameter in (attention.in_proj_bias, attention.out_proj.bias, norm.weight, norm.bias):
        torch.nn.init.normal_(parameter)
    with torch.no_grad():
        attention.in_proj_weight[:24] *= scale
        attention.in_proj_bias[:24] *= scale
    return layer


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("keep", [None, slice(1), slice(2, 4)])
@pytest.mark.parametrize("laid_out", [False, True])
def test_attention_of_bounded_scores_is_the_same(
    keep: slice | None, laid_out: bool, dtype: torch.dtype, limit: float
) -> None:
    """Up to the largest scores for which it is used, and whichever folds were made before."""
    layer = layer_of(1.0, dtype)
    attention, norm = layer.self_attn, layer.layer_norms[0]
    grown = layer_of((BOUND / score_bound(attention, norm)) ** 0.5 * 0.999, dtype)
    attention, norm = grown.self_attn, grown.layer_norms[0]
    assert 0.9 * BOUND < score_bound(attention, norm) <= BOUND
    with torch.no_grad():
        x = torch.randn(3, 50, 12, dtype=dtype)
        before = attention(norm(x), keep)
        if laid_out:
            attention.fold_scale_()
            attention.fold_tokens_last_()
        bounded = BoundedAttention(attention, norm)
        assert (bounded(norm(x), keep) - before).abs().max() < limit * before.abs().max()


@pytest.mark.parametrize(("biases", "near"), [(True, 0.4), (False, 0.8)])
def test_no_score_exceeds_its_bound_and_some_come_near_it(biases: bool, near: float) -> None:
    """Random tokens, and those that lie along the singular vectors of a head, which is where scores are large."""
    layer = layer_of(1.0)
    attention, norm = layer.self_attn, layer.layer_norms[0]
    with torch.no_grad():
        attention.in_proj_bias *= biases
        norm.bias *= biases
        q, k, _ = (part.unflatten(0, (4, -1)) for part in (attention.in_proj_weight * norm.weight).chunk(3))
        left, _, right = torch.linalg.svd(q.mT @ k)
        along = torch.cat([left.mT.flatten(0, 1), right.flatten(0, 1)])
        x = torch.cat([torch.randn(5_000, 12, dtype=torch.float64), along, -along])
        q, k, _ = torch.nn.functional.linear(norm(x), attention.in_proj_weight, attention.in_proj_bias).chunk(3, 1)
        q, k = (part.unflatten(1, (4, -1)).transpose(0, 1) for part in (q, k))
        largest = attention.scale * float((q @ k.mT).abs().max())
    bound = score_bound(attention, norm)
    assert near * bound < largest <= bound


def test_scores_without_a_small_bound_keep_the_maximum_of_their_softmax() -> None:
    """A layer by itself: the other layers of the host are folded still."""
    torch.manual_seed(0)
    host = LateFusion.build(*LateFusion.example()).eval()
    layers = [layer for _, encoder in host.branches() for layer in encoder.layers]
    with torch.no_grad():
        layers[0].self_attn.in_proj_weight *= 20
    for rewrite in host.folds():
        rewrite.apply()
    assert [isinstance(layer.self_attn, BoundedAttention) for layer in layers] == [False, True, True]
    assert "bounded_scores" not in [rewrite.name for rewrite in host.folds()]  # nothing is left to fold
    grown = LateFusion.build(*LateFusion.example()).eval()
    with torch.no_grad():
        for _, encoder in grown.branches():
            for layer in encoder.layers:
                layer.self_attn.in_proj_weight *= 20
    assert "bounded_scores" not in [rewrite.name for rewrite in grown.folds()]


@pytest.mark.parametrize(("heads", "folded"), [(2, True), (1, False)])
def test_only_narrow_heads_are_laid_out_anew(heads: int, folded: bool) -> None:
    config, adapter, head = LateFusion.example()
    config = config.model_copy(update={"embed_dim": 16, "num_heads": heads})
    assert adapter is not None
    host = LateFusion.build(config, adapter.model_copy(update={"embed_dim": 16}), head)
    assert ("tokens_last" in [fold.name for fold in host.folds()]) == folded
