"""The algebra of sequence fusion, in float64, against the stored forms and against plain loops."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.oracles import FORMS, Oracle, difference, needs_oracles
from wander.adapters import _fusion as fusion


def tensors(oracle: Oracle, prefix: str) -> list[Tensor]:
    names = sorted(name for name in oracle.inputs if name.startswith(prefix))
    return [torch.from_numpy(oracle.inputs[name]) for name in names]


@needs_oracles
@pytest.mark.parametrize("variant", FORMS)
def test_every_form_equals_its_reference(variant: str) -> None:
    oracle = Oracle("wander_adapter_only", variant)
    g, a, t = (tensors(oracle, prefix) for prefix in ("g_", "factor_dim_", "factor_t_"))
    dense_h, dense_t = torch.from_numpy(oracle.inputs["W_h"]), torch.from_numpy(oracle.inputs["W_t"])
    found = {
        "pos": fusion.product_of_sums(g, a, t),
        "sf_cp": fusion.sum_of_products(g, a, t),
        "sf_vf": fusion.vector_fusion(g, a, dense_t),
        "sf_op": fusion.outer_product(g, dense_h, dense_t),
        "sf_op_from_cp": fusion.outer_product(g, fusion.dense_from_factors(a), fusion.dense_from_factors(t)),
    }
    for name, value in found.items():
        assert difference(value.numpy(), oracle.outputs[name]) < 1e-12, name


sizes = st.integers(1, 3)


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Random features and factors of 1 to 4 modalities."""
    lengths = draw(st.lists(sizes, min_size=1, max_size=4))
    width, out, tokens, rank_h, rank_t = (draw(sizes) for _ in range(5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    g = [random(2, length, width) for length in lengths]
    a = [random(rank_h, width, out) for _ in lengths]
    t = [random(rank_t, length, tokens) for length in lengths]
    return g, a, t


@settings(deadline=None, max_examples=60)
@given(problems())
def test_the_forms_agree_where_the_algebra_says_so(problem: tuple[list[Tensor], list[Tensor], list[Tensor]]) -> None:
    g, a, t = problem
    dense_h, dense_t = fusion.dense_from_factors(a), fusion.dense_from_factors(t)
    cp = fusion.sum_of_products(g, a, t)
    torch.testing.assert_close(cp, fusion.outer_product(g, dense_h, dense_t), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(cp, fusion.vector_fusion(g, a, dense_t), rtol=1e-10, atol=1e-10)
    summed = [[factor.sum(0, keepdim=True) for factor in factors] for factors in (a, t)]
    pos = fusion.product_of_sums(g, a, t)
    torch.testing.assert_close(pos, fusion.sum_of_products(g, *summed), rtol=1e-10, atol=1e-10)


def test_sum_of_products_is_the_sum_over_all_pairs_of_ranks() -> None:
    """Eq. 13, first two lines, as a loop."""
    torch.manual_seed(0)
    g = [torch.randn(2, n, 3, dtype=torch.float64) for n in (4, 2, 3)]
    a = [torch.randn(2, 3, 5, dtype=torch.float64) for _ in g]
    t = [torch.randn(3, n, 2, dtype=torch.float64) for n in (4, 2, 3)]
    total = torch.zeros(2, 2, 5, dtype=torch.float64)
    for rt, rh in itertools.product(range(3), range(2)):
        product = torch.ones(2, 2, 5, dtype=torch.float64)
        for m in range(3):
            product = product * (t[m][rt].T @ g[m] @ a[m][rh])
        total += product
    torch.testing.assert_close(fusion.sum_of_products(g, a, t), total)
    assert not torch.allclose(fusion.product_of_sums(g, a, t), total)


def test_the_residual_takes_the_first_tokens_of_the_first_modality_first() -> None:
    hidden = [torch.full((1, 2, 1), 1.0), torch.full((1, 3, 1), 2.0)]
    assert fusion.first_tokens(hidden, 2).flatten().tolist() == [1, 1]
    assert fusion.first_tokens(hidden, 4).flatten().tolist() == [1, 1, 2, 2]
