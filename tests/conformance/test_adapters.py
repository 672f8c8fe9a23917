"""One suite for every adapter kind: a new file in `wander/adapters` is tested here without a change."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from wander.adapters import Adapter, adapters
from wander.adapters._fusion import FusionAdapter, FusionConfig
from wander.adapters.sequence_fusion import SequenceFusionConfig

KINDS = adapters.names()
MORE = {
    "sequence_fusion": [SequenceFusionConfig(embed_dim=8, lengths=(4, 3), down_dim=3, tokens=2, form="outer_product")]
}
CONFIGS = [
    pytest.param(kind, config, id=f"{kind}-{number}")
    for kind in KINDS
    for number, config in enumerate([adapters.get(kind).example_config(), *MORE.get(kind, [])])
]


def filled(kind: str, config: FusionConfig) -> Adapter:
    torch.manual_seed(0)
    adapter = adapters.get(kind).build(config)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    return adapter


@pytest.mark.parametrize(("kind", "config"), CONFIGS)
def test_the_configuration_survives_json(kind: str, config: FusionConfig) -> None:
    assert config.kind == kind
    assert type(config).model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(("kind", "config"), CONFIGS)
def test_the_parameter_count_is_that_of_the_module(kind: str, config: FusionConfig) -> None:
    adapter = filled(kind, config)
    assert adapters.get(kind).parameter_count(config) == sum(p.numel() for p in adapter.parameters())


@pytest.mark.parametrize(("kind", "config"), CONFIGS)
def test_the_flops_are_those_that_torch_counts(kind: str, config: FusionConfig) -> None:
    adapter = filled(kind, config)
    if not isinstance(adapter, FusionAdapter):
        pytest.skip("an adapter inside the layers is counted with its backbone")
    hidden = [torch.randn(1, n, config.embed_dim) for n in config.lengths]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        adapter(hidden)
    assert counter.get_total_flops() == adapters.get(kind).flops(config)


@pytest.mark.parametrize(("kind", "config"), CONFIGS)
def test_zeroing_it_changes_the_answer(kind: str, config: FusionConfig) -> None:
    """No silent bypass: the adapter is really in the path."""
    adapter = filled(kind, config)
    if not isinstance(adapter, FusionAdapter):
        pytest.skip("an adapter inside the layers is zeroed with its host")
    hidden = [torch.randn(2, n, config.embed_dim) for n in config.lengths]
    zeroed = copy.deepcopy(adapter)
    zeroed.zero_()
    with torch.no_grad():
        with_it, without = adapter(hidden), zeroed(hidden)
    assert not torch.allclose(with_it, without)
    if config.residual:
        torch.testing.assert_close(without, torch.cat(hidden, 1)[:, : config.tokens])
