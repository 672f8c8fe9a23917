"""A BERT of one layer fitted in closed form: the mean of a recipe's words in a truncated SVD.

A word is a vector of its right singular coordinates; attention is even, so that every token holds the mean over the
recipe, which a norm brings to unit length. Positions do not count. Knows no class.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from wander.training.recipes._food_corpus import SPECIAL

BALANCE = 6
"""Features that give every word vector the same length and the sum 0, so that a LayerNorm only scales it."""

RARITY = 0.25
"""A word that a share p of the recipes has counts p to the power of minus this."""

LOUDNESS = 5.0
"""Length of the mean over a recipe, in lengths of the token that it is added to."""


@torch.no_grad()
def start_text_(bert: Any, texts: Tensor, width: int) -> None:
    """Fills `bert` from ids (R, L) of recipes; its first `width` features will hold them, the others stay 0.

    The number of coordinates is at most that of the recipes or words; what is left of the width stays 0 as well.
    """
    vocabulary = bert.embeddings.word_embeddings.num_embeddings
    counts = torch.stack([row.bincount(minlength=vocabulary) for row in texts]).double()
    counts[:, : len(SPECIAL)] = 0
    having = (counts > 0).sum(0).clamp(min=1)
    # A word that stands several times in a recipe, as a unit does, counts as if it stood there once.
    weight = (having / len(texts)) ** -RARITY * having / counts.sum(0).clamp(min=1)
    rows = counts * weight
    rows /= rows.norm(dim=1, keepdim=True).clamp(min=1e-9)
    right = torch.linalg.svd(rows, full_matrices=False)[2][: width - BALANCE].mT
    sign = torch.where(right.gather(0, right.abs().argmax(0, keepdim=True)) < 0, -1.0, 1.0)
    words = weight[:, None] * right * sign
    words[: len(SPECIAL)] = 0
    size = words.shape[1]

    total = words.sum(1, keepdim=True)
    length = (words.square().sum(1, keepdim=True) + total.square() / BALANCE).sqrt()
    longest = 1.01 * length.max()
    swing = torch.tensor([1.0, -1.0] * (BALANCE // 2)).double() / math.sqrt(BALANCE)
    embeddings = bert.embeddings
    table = embeddings.word_embeddings.weight
    features = table.shape[1]
    table.zero_()
    table[:, :size] = words.float()
    table[:, width - BALANCE : width] = ((longest**2 - length**2).sqrt() * swing - total / BALANCE).float()
    embeddings.position_embeddings.weight.zero_()
    embeddings.token_type_embeddings.weight.zero_()

    unit = math.sqrt(features)
    mean = (counts @ words) / (texts != 0).sum(1, keepdim=True) * unit / longest
    gain = float(LOUDNESS * unit / mean.norm(dim=1).mean())
    attention = bert.encoder.layer[0].attention
    attention.self.query.weight.zero_()
    for projection in (attention.self.value, attention.output.dense):
        projection.weight.zero_()
    attention.self.value.weight[:size, :size] = torch.eye(size)
    attention.output.dense.weight[:size, :size] = gain * torch.eye(size)
    attention.output.dense.weight[width - BALANCE : width, :size] = -gain / BALANCE
    bert.encoder.layer[0].output.dense.weight.zero_()
