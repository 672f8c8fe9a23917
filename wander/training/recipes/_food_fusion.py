"""Fusion encoder and head fitted as the sum of what the two towers find, each in features of its own.

The first layer's attention is even and hands every token the mean of the text's features; the head is a sum of two
linear classifiers, whose shares are chosen on the validation split.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from wander.backbones.bert_vit import BertViT
from wander.training.loop import Examples
from wander.training.recipes._food_corpus import ridge

LOUDNESS = 30.0
"""Length of the text's share of a fused token."""

SHARES = [(a, b) for a in np.geomspace(0.25, 8, 11).tolist() for b in np.geomspace(0.125, 4, 11).tolist()]


@torch.no_grad()
def start_fusion_(host: BertViT, examples: Examples, text_width: int) -> None:
    """The text has the first `text_width` features, the image the others."""
    fusion: Any = host.fusion
    for layer in fusion.layers:
        layer.fc2.weight.zero_()
        layer.fc2.bias.zero_()
        layer.self_attn.out_proj.weight.zero_()
        layer.self_attn.out_proj.bias.zero_()
    first, features = fusion.layers[0].self_attn, host.config.embed_dim
    first.in_proj_weight[:features].zero_()
    first.in_proj_weight[2 * features :] = torch.eye(features)
    text = torch.arange(text_width)
    first.out_proj.weight[text, text] = 1
    tokens = fusion.scale * torch.cat(host.hidden(*examples.rows(torch.arange(min(100, len(examples)))).inputs), 1)
    mean = fusion.layers[0].layer_norms[0](tokens).mean(1)[:, :text_width]
    first.out_proj.weight[text, text] = LOUDNESS / float(mean.norm(dim=1).mean())


@torch.no_grad()
def start_head_(
    host: BertViT, train: Examples, named: Tensor, valid: Examples, text_width: int, penalty: float
) -> dict[str, float]:
    """Fills the head from fused tokens of image and text, and says which shares of text and image it chose.

    Args:
        named: (N) bool, whether a training example has a text; one without says nothing of its class.
        valid: the validation split, by whose cross-entropy the shares are chosen.
    """
    tokens, labels, classes = train.inputs[0][:, 0], train.targets, host.out_layer.out_features
    rows = tokens[:, :text_width].double().numpy()
    goal = (F.one_hot(labels, classes) - 1 / classes) * named[:, None]
    found = ridge(rows / math.sqrt(text_width), goal.double().numpy(), np.ones(len(rows)), penalty)
    text, image = torch.zeros(2, classes, tokens.shape[1])
    text[:, :text_width] = torch.from_numpy(found.T)
    image[:, text_width : text_width + classes] = torch.eye(classes)
    for part in (text, image):
        part /= (tokens @ part.mT).std()
    seen = valid.inputs[0][:, 0]
    losses = {(a, b): float(F.cross_entropy(seen @ (a * text + b * image).mT, valid.targets)) for a, b in SHARES}
    a, b = min(losses, key=lambda shares: losses[shares])
    matrix = a * text + b * image
    # ReLU(x) - ReLU(-x) is x.
    host.proj1.weight[: 2 * classes] = torch.cat([matrix, -matrix])
    host.proj1.bias[: 2 * classes].zero_()
    host.out_layer.weight.zero_()
    host.out_layer.weight[:, : 2 * classes] = torch.cat([torch.eye(classes), -torch.eye(classes)], 1)
    host.out_layer.bias.zero_()
    return {"text": a, "image": b, "loss": round(losses[a, b], 4)}
