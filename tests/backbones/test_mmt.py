"""The MMT host against its authors' modules, stage by stage, in both precisions; and Wander on it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.oracles import MMT as VARIANTS
from tests.oracles import Oracle, difference, needs_oracles
from wander.adapters.multiway import MultiWay
from wander.adapters.wander import Wander, WanderConfig
from wander.backbones._pretrained import BertSizes
from wander.backbones.base import run
from wander.backbones.late_fusion import LateFusion
from wander.backbones.mmt import MMT, MMTConfig, MMTHead
from wander.backbones.precomputed import Precomputed
from wander.checkpoints.convert import interpret
from wander.errors import ConfigError
from wander.tasks.text_video import similarities

each_variant = pytest.mark.parametrize("variant", VARIANTS)
each_precision = pytest.mark.parametrize(
    ("dtype", "suffix", "limit"), [(torch.float32, "", 1e-5), (torch.float64, "_f64", 1e-10)]
)
FOLDS = ["attention_scales", "batch_norms", "stacked_units", "text_read_out", "video_read_out"]


def host_of(oracle: Oracle, dtype: torch.dtype = torch.float32) -> MMT:
    host = interpret(oracle.path("trained_model.pth"), {}).host
    assert isinstance(host, MMT)
    return host.eval().to(dtype)


def texts(oracle: Oracle) -> tuple[Tensor, Tensor]:
    """Ids and mask (captions, L), all captions of a video together."""
    ids, mask = torch.from_numpy(oracle.inputs["token_ids"]).flatten(0, 1).long().unbind(-1)
    return ids, mask


def videos(oracle: Oracle, dtype: torch.dtype) -> list[Tensor]:
    """What the video tower takes: times are clamped and cut to positions, as a task does it."""
    inputs, names = oracle.inputs, oracle.sizes["experts"]
    features = [
        torch.from_numpy(inputs[f"{kind}.{n}"]).to(dtype) for kind in ("features", "features_maxpool") for n in names
    ]
    times, there = (
        torch.from_numpy(np.stack([inputs[f"{k}.{n}"] for n in names], 1)) for k in ("features_t", "features_ind")
    )
    return [*features, times.clamp(min=0).long(), there.long()]


def stages(host: MMT, oracle: Oracle, dtype: torch.dtype) -> dict[str, Any]:
    """What the oracle holds, from the host, in the oracle's shapes."""
    captions, experts = oracle.sizes["captions_per_video"], len(host.config.experts)
    with torch.inference_mode():
        state = host.text_state(*texts(oracle))
        vectors, weights = host.text_vectors(state), host.text_weights(state)
        query, same_weights = host.text(*texts(oracle))
        video, there = host.video(*videos(oracle, dtype))
    assert torch.equal(weights, same_weights)
    pair = [value.numpy() for value in (query, weights, video, there)]
    shares = there / there.sum(1, keepdim=True).clamp(min=1)
    return {
        "text_cls": state.unflatten(0, (-1, captions)).numpy(),
        "text_embds": vectors.unflatten(0, (-1, captions)).transpose(1, 2).numpy(),
        "text_weights": weights.unflatten(0, (-1, captions)).numpy(),
        "vid_embds": video.unflatten(1, (experts, -1)).numpy(),
        "vid_weights_drop": shares.numpy(),
        "sims_keep_missing_true": similarities(*pair, keep_missing=True),
        "sims_keep_missing_false": similarities(*pair, keep_missing=False),
    }


@needs_oracles
@each_variant
@each_precision
def test_it_equals_the_reference_before_and_after_every_fold(
    variant: str, dtype: torch.dtype, suffix: str, limit: float
) -> None:
    oracle = Oracle("mmt", variant)
    host = host_of(oracle, dtype)
    assert [fold.name for fold in host.folds()] == FOLDS
    for fold in [None, *host.folds()]:
        if fold is not None:
            fold.apply()
        for name, value in stages(host, oracle, dtype).items():
            assert difference(value, oracle.outputs[name + suffix]) <= limit, (fold, name)


@needs_oracles
def test_a_text_is_the_same_without_its_padding() -> None:
    oracle = Oracle("mmt", "seven_experts")
    host = host_of(oracle, torch.float64)
    ids, mask = texts(oracle)
    with torch.inference_mode():
        padded, _ = host.text(ids, mask)
        for row, length in enumerate(mask.sum(1).tolist()):
            alone, _ = host.text(ids[row : row + 1, :length], mask[row : row + 1, :length])
            torch.testing.assert_close(alone[0], padded[row], rtol=0, atol=1e-13)


@needs_oracles
def test_what_is_masked_does_not_count_and_what_is_not_does() -> None:
    oracle = Oracle("mmt", "two_experts")
    host = host_of(oracle, torch.float64)
    inputs = videos(oracle, torch.float64)
    with torch.inference_mode():
        before, _ = host.video(*inputs)
        absent = [x.clone() for x in inputs]
        absent[0][inputs[-1][:, 0] == 0] = 7.0
        torch.testing.assert_close(host.video(*absent)[0], before, rtol=0, atol=1e-13)
        present = [x.clone() for x in inputs]
        present[0][inputs[-1][:, 0] == 1] += 1.0
        assert not torch.allclose(host.video(*present)[0], before)


@needs_oracles
def test_positions_beyond_the_table_are_its_ends() -> None:
    oracle = Oracle("mmt", "two_experts")
    host = host_of(oracle)
    inputs = videos(oracle, torch.float32)
    low, high = [x.clone() for x in inputs], [x.clone() for x in inputs]
    low[-2] -= 100
    high[-2] += 100
    with torch.inference_mode():
        for moved, end in ((low, 0), (high, host.config.positions - 1)):
            at_end = [*inputs[:-2], torch.full_like(inputs[-2], end), inputs[-1]]
            assert torch.equal(host.video(*moved)[0], host.video(*at_end)[0])


def adapted(readout: Any, dtype: torch.dtype = torch.float64, **sizes: Any) -> MMT:
    """A small host whose every weight matters."""
    torch.manual_seed(0)
    config, _, head = MMT.example()
    assert isinstance(config, MMTConfig)
    options = {"residual": readout == "first_token", "down_dim": 3, "tokens": 4, "rank_h": 2, "rank_t": 2, **sizes}
    adapter = WanderConfig(embed_dim=config.embed_dim, lengths=config.lengths, readout=readout, **options)
    host = MMT.build(config, adapter, head).eval()
    for parameter in host.adapter_module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return host.to(dtype)


def plain(host: MMT) -> MMT:
    """The same host without its adapter."""
    bare = copy.deepcopy(host)
    bare.adapter = None
    return bare


def embed(host: MMT) -> np.ndarray:
    inputs = host.random_inputs("video", 5, np.random.default_rng(0))
    return run(host.towers("unused")["video"], inputs)["video_embedding"]


@pytest.mark.parametrize("readout", ["experts", "shared", None])
def test_an_adapter_that_adds_nothing_leaves_the_host_as_it_is(readout: Any) -> None:
    host = adapted(readout)
    before = embed(host)
    assert float(np.abs(before - embed(plain(host))).max()) > 1e-3
    host.adapter_module.zero_()
    np.testing.assert_array_equal(embed(host), embed(plain(host)))


def test_the_released_form_reads_the_first_token_for_every_expert() -> None:
    """Its residual is the AGG token of the first expert; so without the adapter's share all experts are the first."""
    host = adapted("first_token")
    first, second = np.split(embed(host), 2, 1)
    np.testing.assert_array_equal(first, second)
    host.adapter_module.zero_()
    np.testing.assert_allclose(np.split(embed(host), 2, 1)[1], np.split(embed(plain(host)), 2, 1)[0], atol=1e-15)


@pytest.mark.parametrize("readout", ["experts", "shared", "first_token"])
def test_the_readout_is_what_it_says(readout: Any) -> None:
    """Against the formulas, from the transformer's tokens."""
    host = adapted(readout)
    inputs = host.random_inputs("video", 4, np.random.default_rng(1))
    spec = host.towers("unused")["video"].signature.inputs
    tensors = [torch.from_numpy(inputs[s.name]) for s in spec]
    tensors = [t.double() if t.is_floating_point() else t for t in tensors]
    with torch.inference_mode():
        h = host.hidden(host.tokens(tuple(tensors[:2]), tuple(tensors[2:4])), *tensors[4:])
        assert isinstance(host.adapter, Wander)
        y = host.adapter(list(h.unbind(1)))
        agg = h[:, :, 0]
        read = {"experts": agg + y[:, :2], "shared": agg + y[:, :1], "first_token": y[:, :1].expand(-1, 2, -1)}[readout]
        expected = (read / read.norm(dim=-1, keepdim=True)).flatten(1)
        torch.testing.assert_close(host.video(*tensors)[0], expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("readout", "sizes", "read"),
    [
        ("experts", {}, 2),
        ("experts", {"form": "sum_of_products"}, 2),
        ("shared", {}, 1),
        ("shared", {"first_token_only": True, "tokens": 1, "rank_t": 1}, 1),
        ("first_token", {}, 1),
    ],
)
def test_folds_of_every_readout_are_exact(readout: Any, sizes: dict[str, Any], read: int) -> None:
    host = adapted(readout, **sizes)
    before = embed(host)
    names = [fold.name for fold in host.folds()]
    assert ("video_read_out" in names) == bool(sizes.get("first_token_only"))
    for fold in host.folds():
        fold.apply()
        assert float(np.abs(embed(host) - before).max()) < 1e-9, fold.name
    left: Any = host.adapter
    assert (left.config.tokens if isinstance(left, Wander) else left.tokens) == read


def test_the_default_readout_is_declared_in_what_is_saved() -> None:
    assert adapted(None).adapter_module.config.readout == "experts"


def test_training_can_begin_where_the_adapter_adds_nothing() -> None:
    """Gradients reach the adapter and the mixture weights; after a step the answer has changed."""
    host = adapted("experts", torch.float32)
    assert isinstance(host.adapter, Wander)
    host.adapter.start_training_()
    before = embed(host)
    np.testing.assert_array_equal(before, embed(plain(host)))
    optimizer = torch.optim.SGD(host.adapter.parameters(), 10.0)
    inputs = host.random_inputs("video", 8, np.random.default_rng(0))
    spec = host.towers("unused")["video"].signature.inputs
    target = torch.randn(8, 2 * host.config.embed_dim)
    (host.video(*(torch.from_numpy(inputs[s.name]) for s in spec))[0] * target).sum().backward()
    optimizer.step()
    assert not np.array_equal(before, embed(host))


@pytest.mark.parametrize(
    ("sizes", "complaint"),
    [
        ({"tokens": 1}, "needs a token for each of 2 experts, not 1"),
        ({"residual": True}, "needs residual false"),
        ({"readout": "shared", "residual": True}, "needs residual false"),
        ({"readout": "first_token"}, "needs the adapter's residual"),
        ({"lengths": (4, 4, 4)}, "does not fit the backbone"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(sizes: dict[str, Any], complaint: str) -> None:
    config, adapter, head = MMT.example()
    assert adapter is not None
    with pytest.raises(ConfigError, match=complaint):
        MMT.build(config, adapter.model_copy(update=sizes), head)


def test_other_adapters_and_other_hosts_are_refused() -> None:
    config, _, head = MMT.example()
    with pytest.raises(ConfigError, match="not an adapter of kind 'multiway'"):
        MMT.build(config, MultiWay.example_config(), head)
    for family in (LateFusion, Precomputed):
        sizes, adapter, own_head = family.example()
        assert adapter is not None
        with pytest.raises(ConfigError, match="for hosts of several experts"):
            family.build(sizes, adapter.model_copy(update={"readout": "experts"}), own_head)


def test_the_head_may_hold_the_gated_units() -> None:
    config, adapter, _ = MMT.example()
    for units in (False, True):
        host = MMT.build(config, adapter, MMTHead(units=units))
        trained, frozen = host.split_state()
        assert any(name.startswith("text_GU.") for name in trained) == units
        assert any(name.startswith("text_GU.") for name in frozen) != units
        assert any(name.startswith("moe_fc_txt.") for name in trained)


@pytest.mark.parametrize(
    "wrong",
    [
        {"feature_dims": (5,)},
        {"feature_dims": (5, 0)},
        {"token_types": (1, 4)},
        {"token_types": (1, -1)},
        {"experts": ("rgb", "rgb")},
        {"experts": ("rgb", "a.b")},
        {"experts": ("rgb", "forward")},
        {"num_heads": 3},
        {"text_width": 7},
        {"tokens": 0},
    ],
)
def test_sizes_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    config, _, _ = MMT.example()
    with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[0] + "|text"):
        MMTConfig.model_validate(config.model_dump() | wrong)


def test_published_sizes_have_the_published_number_of_values() -> None:
    """133,357,063 with the poolers (two E·E + E), which are left out, and without counters of batches."""
    from wander.backbones._mmt_sizes import PUBLISHED

    sizes = BertSizes(layers=12, heads=12, intermediate=3072, vocab=28996)
    config = MMTConfig(
        experts=tuple(PUBLISHED),
        feature_dims=tuple(width for width, _ in PUBLISHED.values()),
        token_types=tuple(row for _, row in PUBLISHED.values()),
        text=sizes,
        text_width=768,
    )
    with torch.device("meta"):
        host = MMT.build(config, None, MMTHead())
    poolers = 768 * 768 + 768 + 512 * 512 + 512
    assert sum(p.numel() for p in host.parameters()) + poolers == 133_357_063
