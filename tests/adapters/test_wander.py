"""The Wander adapter against the stored checkpoints, its folds, counts, initialisation and refusals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.oracles import ADAPTER_ONLY, Oracle, difference, needs_oracles
from wander.adapters.sequence_fusion import SequenceFusion, SequenceFusionConfig
from wander.adapters.wander import FoldedWander, Wander, WanderConfig
from wander.checkpoints.reader import read, state_dict


def from_oracle(oracle: Oracle) -> Wander:
    case = oracle.sizes
    config = WanderConfig(
        embed_dim=case["embed_dim"],
        lengths=tuple(case["lengths"]),
        down_dim=case["down_dim"],
        tokens=case["d_t"],
        rank_h=case["rank_h"],
        rank_t=case["rank_t"],
    )
    adapter = Wander.build(config)
    adapter.load_state_dict(state_dict(read(oracle.path("state_dict.pt"))))
    return adapter


def random_adapter(seed: int = 0, **changes: object) -> Wander:
    torch.manual_seed(seed)
    config = WanderConfig.model_validate(Wander.example_config().model_dump() | changes)
    adapter = Wander.build(config).double()
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    return adapter


def hidden_for(adapter: Wander, rows: int = 3) -> list[torch.Tensor]:
    config = adapter.config
    return [torch.randn(rows, n, config.embed_dim, dtype=torch.float64) for n in config.lengths]


@needs_oracles
@pytest.mark.parametrize("variant", ADAPTER_ONLY)
def test_tokens_equal_the_reference(variant: str) -> None:
    oracle = Oracle("wander_adapter_only", variant)
    adapter = from_oracle(oracle)
    hidden = [torch.from_numpy(oracle.inputs[f"h_{m}"]) for m in range(oracle.sizes["modalities"])]
    with torch.inference_mode():
        single = adapter(hidden)
        double = adapter.double()([h.double() for h in hidden])
        folded = adapter.fold()([h.double() for h in hidden])
    assert difference(single.numpy(), oracle.outputs["tokens"]) <= 1e-5
    assert difference(double.numpy(), oracle.outputs["tokens_f64"]) <= 1e-12
    assert difference(folded.numpy(), oracle.outputs["tokens_f64"]) <= 1e-12


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    down_dim=st.integers(1, 4),
    tokens=st.integers(1, 5),
    read=st.integers(1, 5),
    ranks=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    form=st.sampled_from(["product_of_sums", "sum_of_products"]),
    activation=st.sampled_from(["gelu", "relu", "none"]),
    residual=st.booleans(),
)
def test_folding_changes_nothing(
    lengths: list[int],
    down_dim: int,
    tokens: int,
    read: int,
    ranks: tuple[int, int],
    form: str,
    activation: str,
    residual: bool,
) -> None:
    adapter = random_adapter(
        lengths=lengths,
        down_dim=down_dim,
        tokens=min(tokens, sum(lengths)),
        rank_h=ranks[0],
        rank_t=ranks[1],
        form=form,
        activation=activation,
        residual=residual,
    )
    hidden = hidden_for(adapter)
    with torch.inference_mode():
        whole = adapter(hidden)
        cut = adapter.fold(read)(hidden)
    assert cut.shape[1] == min(read, adapter.config.tokens)
    scale = max(1.0, float(whole.abs().max()))
    assert float((whole[:, : cut.shape[1]] - cut).abs().max()) < 1e-9 * scale


def test_vector_fusion_is_a_one_hot_token_factor() -> None:
    """Table 7: only token 0 of every modality, as T_m one-hot at token 0 with d_t = 1."""
    vector = random_adapter(tokens=1, rank_t=1, first_token_only=True)
    full = random_adapter(tokens=1, rank_t=1)
    one_hot = {f"factor_t_list.{m}": torch.eye(n, 1).unsqueeze(0) for m, n in enumerate(full.config.lengths)}
    full.load_state_dict({**vector.state_dict(), **one_hot})
    hidden = hidden_for(full)
    torch.testing.assert_close(vector(hidden), full(hidden))
    torch.testing.assert_close(vector.fold()(hidden), full(hidden))
    assert Wander.parameter_count(vector.config) == sum(p.numel() for p in vector.parameters())


@pytest.mark.parametrize(
    "changes", [{}, {"form": "sum_of_products"}, {"tokens": 1, "rank_t": 1, "first_token_only": True}]
)
def test_counts_are_those_of_the_module(changes: dict[str, object]) -> None:
    adapter = random_adapter(**changes)
    assert Wander.parameter_count(adapter.config) == sum(p.numel() for p in adapter.parameters())
    folded = adapter.fold(1)
    if isinstance(folded, FoldedWander):
        extra = sum(p.numel() for p in folded.pooling) if adapter.config.first_token_only else 0
        assert Wander.folded_parameter_count(adapter.config, 1) == sum(p.numel() for p in folded.parameters()) - extra


@pytest.mark.parametrize("modalities", [2, 3, 4])
def test_a_released_initialisation_is_a_dead_point_and_ours_is_not(modalities: int) -> None:
    """With every token factor zero no gradient flows for M >= 2; with one zero, all get one by step two."""
    config = WanderConfig(embed_dim=8, lengths=(3,) * modalities, down_dim=3, tokens=2, rank_h=2, rank_t=2)
    hidden = [torch.randn(2, 3, 8) for _ in range(modalities)]
    released = Wander.build(config)
    released(hidden).square().sum().backward()
    assert all(not p.grad.any() for p in released.parameters() if p.grad is not None)
    assert released.warnings()

    ours = Wander.build(config)
    ours.start_training_()
    torch.testing.assert_close(ours(hidden), hidden[0][:, :2])  # still the identity
    optimiser = torch.optim.SGD(ours.parameters(), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        (ours(hidden) - 1).square().sum().backward()
        optimiser.step()
    assert all(p.grad is not None and p.grad.any() for p in ours.parameters())


def test_warnings_name_what_is_dead() -> None:
    adapter = random_adapter()
    assert adapter.warnings() == []
    torch.nn.init.zeros_(adapter.factor_t_list[1])
    assert "modality 1" in adapter.warnings()[0]
    adapter.zero_()
    assert "every factor_t is zero" in adapter.warnings()[0]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"tokens": 13}, "13 tokens"),
        ({"out_dim": 9}, "residual"),
        ({"lengths": (4, 0)}, "lengths"),
        ({"lengths": ()}, "lengths"),
        ({"first_token_only": True}, "first_token_only"),
        ({"rank_h": 0}, "rank_h"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_impossible_sizes_are_refused_by_name(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        WanderConfig.model_validate(Wander.example_config().model_dump() | changes)


def test_example_of_the_paper_has_its_flops() -> None:
    """3 x (10, 768), d_h 768, R_h 8: the paper's 347.9e9 for SF-OP omits Down and the token side; ours holds both."""
    config = SequenceFusionConfig(
        embed_dim=768, lengths=(10,) * 3, down_dim=768, tokens=1, out_dim=768, form="outer_product", residual=False
    )
    token_side = 2 * 10**3 * 768
    feature_side = SequenceFusion.flops(config) - config.down_flops - token_side
    assert feature_side == 2 * 10**3 * 768**3 * 768
    assert (
        SequenceFusion.parameter_count(config) - config.down_parameters - 10**3
        == 768**4
        == pytest.approx(347.9e9, rel=1e-3)
    )


def test_an_even_start_of_many_modalities_can_learn() -> None:
    """A product of seven small factors has no gradient to speak of; one of seven near 1 has."""
    torch.manual_seed(0)
    config = WanderConfig(embed_dim=12, lengths=(4,) * 7, down_dim=8, tokens=8, rank_h=4, rank_t=4, residual=False)
    hidden = [torch.randn(3, 4, 12) for _ in config.lengths]
    sizes = {}
    for start in ("start_training_", "start_even_"):
        adapter = Wander(config)
        getattr(adapter, start)()
        tokens = adapter(hidden)
        assert not tokens.any()
        tokens.sum().backward()
        sizes[start] = float(adapter.factor_t_list[-1].grad.norm())
        adapter.zero_grad()
        adapter.factor_t_list[-1].data.normal_()
        adapter(hidden).sum().backward()
        assert all(bool(p.grad.any()) for p in adapter.parameters())
    assert sizes["start_even_"] > 1e3 * sizes["start_training_"]
