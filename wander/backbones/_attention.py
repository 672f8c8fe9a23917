"""Attention of every host, in the form that its graph is to have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Form = Literal["products", "operator"]
"""Two products and a softmax, which every engine reads and some fuse; or torch's one operator, which becomes ONNX's
`Attention` (opset 23). They compute the same."""

_form: ContextVar[Form] = ContextVar("form", default="products")


@contextmanager
def attention_form(form: Form) -> Iterator[None]:
    """Attention that is traced within has this form."""
    token = _form.set(form)
    try:
        yield
    finally:
        _form.reset(token)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """softmax(q kᵀ + mask) v of every head: q (B, H, Q, d), k and v (B, H, T, d) to (B, H, Q, d).

    Args:
        q: with its scale.
        mask: (B, 1, 1, T), added to the scores.
        dropout: of the weights; for training.
    """
    if _form.get() == "operator":
        if mask is not None:
            mask = mask.expand(-1, -1, q.shape[2], -1)  # ONNX Runtime wants a row for every query
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=1.0)
    scores = q @ k.mT
    weights = torch.softmax(scores if mask is None else scores + mask, -1)
    return (F.dropout(weights, dropout) if dropout else weights) @ v
