"""A ViT of two layers that is a dictionary of small patches with a linear classifier on it (after Coates and Ng, 2011).

The first layer's feed-forward holds the centroids of whitened parts of patches, found by k-means; its second map is a
ridge regression of the classes on how often each occurs in each quarter of the picture. The heads of the second layer
attend to a quarter each, and the sum of what they find is the picture's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from wander.training.recipes._food_corpus import ridge

QUARTERS = 4
COMPONENTS = 80
CODE, SUM, FLAG, VOTES = COMPONENTS, COMPONENTS + QUARTERS, COMPONENTS + QUARTERS + 1, COMPONENTS + QUARTERS + 3
"""A token holds the components of its patch, its quarter, what makes its sum 0, two constants, and its votes."""

CONTRAST = 1.0
"""The constants of a patch: one of less contrast is not brought up to full contrast by the norm."""

COLOURS = 5
"""The first components of every quarter are handed on too: the layout of colours."""

SHARP = 12.0
"""Score of a token in the quarter that a head attends to; elsewhere it is 0."""

CONSTANT = 10.0
"""How much larger than the rest of a token the constants are that make the later norms linear."""


class Dictionary(BaseModel):
    """Attributes:
    part: side in pixels of the small patches that k-means sorts.
    offsets: where in a patch of the ViT they are looked for, in both directions.
    rounds: of k-means.
    penalty: of the ridge regression.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    part: int = Field(default=6, ge=2)
    offsets: tuple[int, ...] = (0, 2)
    rounds: int = Field(default=10, ge=1)
    penalty: float = Field(default=5.0, gt=0)


@torch.no_grad()
def start_image_(vit: Any, images: Tensor, labels: Tensor, classes: int, first: int, how: Dictionary) -> None:
    """Fills `vit` from normalised pictures; features from `first` on will hold what it found, the others stay 0."""
    for module in vit.modules():
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    vit.layers[0].attention.o_proj.weight.zero_()
    vit.layers[1].mlp.fc2.weight.zero_()
    _patches_(vit, images)
    _filters_(vit, images, how)
    _votes_(vit, images, labels, classes, how)
    _heads_(vit, images, classes, first)


def _patches_(vit: Any, images: Tensor) -> None:
    """Principal components of patches without their mean, and the quarter that they are in."""
    project, positions = vit.embeddings.patch_embeddings.projection, vit.embeddings.position_embeddings
    side = project.kernel_size[0]
    patches = F.unfold(_some(images, 400), side, stride=side).mT.flatten(0, 1).double()
    patches -= patches.mean(1, keepdim=True)
    centre = patches.mean(0)
    vectors = torch.linalg.eigh((patches - centre).mT @ (patches - centre) / len(patches))[1]
    basis = vectors[:, -COMPONENTS:].mT.flip(0)
    basis = basis - basis.mean(1, keepdim=True)
    for parameter in (project.weight, project.bias, positions, vit.embeddings.cls_token):
        parameter.zero_()
    found = len(basis)  # small patches have fewer components
    project.weight[:found] = basis.unflatten(1, project.weight.shape[1:]).float()
    project.bias[:found] = -(basis @ centre).float()
    project.weight[SUM] = -project.weight[:COMPONENTS].sum(0)
    project.bias[SUM] = -project.bias[:COMPONENTS].sum()
    edge = math.isqrt(positions.shape[1] - 1)
    half = torch.arange(edge) * 2 // edge
    positions[0, 1:, CODE:SUM] = CONTRAST * F.one_hot((2 * half[:, None] + half).flatten(), QUARTERS)
    positions[0, 1:, SUM] = -CONTRAST
    vit.embeddings.cls_token[..., FLAG : FLAG + 2] = CONTRAST * torch.tensor([1.0, -1.0])


def _filters_(vit: Any, images: Tensor, how: Dictionary) -> None:
    """Centroids of whitened parts of patches, at every offset in the patch."""
    project, fc1 = vit.embeddings.patch_embeddings.projection, vit.layers[0].mlp.fc1
    basis = project.weight[:COMPONENTS].flatten(1)
    pixels = torch.arange(basis.shape[1]).unflatten(0, project.weight.shape[1:])
    parts = [pixels[:, y : y + how.part, x : x + how.part].flatten() for y in how.offsets for x in how.offsets]
    seen = _tokens(vit, _some(images, 300))[..., :COMPONENTS].flatten(0, 1) @ basis
    seen = seen[torch.randperm(len(seen))[:12000]]
    samples = torch.cat([seen[:, part] for part in parts])
    samples = samples[torch.randperm(len(samples))[:24000]]
    centre = samples.mean(0)
    values, vectors = torch.linalg.eigh((samples - centre).mT @ (samples - centre) / len(samples))
    whiten = vectors * (values + 0.05).rsqrt() @ vectors.mT
    white = (samples - centre) @ whiten
    number = fc1.out_features // len(parts)
    centroids = F.normalize(white[torch.randperm(len(white))[:number]], dim=1)
    for _ in range(how.rounds):
        near, nearest = (white @ centroids.mT).max(1)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, white * near[:, None])
        centroids = F.normalize(torch.where(sums.any(1, keepdim=True), sums, centroids), dim=1)
    direction = 2 * centroids @ whiten
    fc1.weight.zero_()
    fc1.weight[:, :COMPONENTS] = torch.cat([direction @ basis[:, part].mT for part in parts])
    fc1.bias.copy_((-direction @ centre - 1).repeat(len(parts)))


def _votes_(vit: Any, images: Tensor, labels: Tensor, classes: int, how: Dictionary) -> None:
    """The second map: what every centroid says of the classes, in every quarter; a flat picture says nothing."""
    mlp = vit.layers[0].mlp
    offsets = len(how.offsets) ** 2
    counts = torch.cat([_counts(vit, images, offsets), _counts(vit, torch.zeros_like(images[:1]), offsets)])
    scale = (counts.std(0) + 1e-6) * math.sqrt(counts[0].numel())
    rows = ((counts - counts.mean(0)) / scale).flatten(1).double().numpy()
    goal = np.concatenate([np.eye(classes)[labels.numpy()] - 1 / classes, np.zeros((1, classes))])
    weights = np.r_[np.ones(len(images)), 0.05 * len(images)]
    found = (
        torch.from_numpy(ridge(rows, goal, weights, how.penalty)).float().unflatten(0, scale.shape) / scale[..., None]
    )
    mlp.fc2.weight.zero_()
    mlp.fc2.weight[VOTES : VOTES + QUARTERS * classes] = found.repeat(1, offsets, 1).mT.flatten(0, 1)


def _heads_(vit: Any, images: Tensor, classes: int, first: int) -> None:
    """Every head gathers the votes of its quarter; the last norm brings the sums over all heads to deviation 1."""
    one, two = vit.layers
    attention, features = two.attention, vit.layernorm.weight.shape[0]
    tokens = vit.embeddings(_some(images, 100))
    tokens = tokens + one.mlp(one.layernorm_after(tokens))
    constant = CONSTANT * float(tokens[:, 1:].norm(dim=2).mean())
    one.mlp.fc2.bias[FLAG : FLAG + 2] = constant * torch.tensor([1.0, -1.0])
    linear = constant * math.sqrt(2 / features)  # what the norm then divides by
    width = features // QUARTERS
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj):
        projection.weight.zero_()
    for head in range(QUARTERS):
        start = head * width
        attention.q_proj.bias[start] = SHARP * math.sqrt(width)
        attention.k_proj.weight[start, CODE + head] = linear / CONTRAST
        for place in range(classes):
            attention.v_proj.weight[start + place, VOTES + head * classes + place] = linear
            attention.o_proj.weight[first + place, start + place] = 1
        for place in range(COLOURS):
            attention.v_proj.weight[start + classes + place, place] = linear
            attention.o_proj.weight[first + classes + head * COLOURS + place, start + classes + place] = 1
    vit.layernorm.weight.zero_()
    vit.layernorm.bias.zero_()
    votes, colours = slice(first, first + classes), slice(first + classes, first + classes + QUARTERS * COLOURS)
    for part in (votes, colours):
        vit.layernorm.weight[part] = 1
    found = torch.cat([vit(some).last_hidden_state[:, 0] for some in images.split(50)])
    for part in (votes, colours):
        vit.layernorm.weight[part] = 1 / found[:, part].std()
    flat = vit(torch.zeros_like(images[:1])).last_hidden_state[0, 0]
    vit.layernorm.bias[votes] = -flat[votes]
    vit.layernorm.bias[colours] = -found[:, colours].mean(0) / found[:, colours].std()


def _tokens(vit: Any, images: Tensor) -> Tensor:
    return vit.layers[0].layernorm_after(vit.embeddings(images))[:, 1:]


def _counts(vit: Any, images: Tensor, offsets: int) -> Tensor:
    """How much there is of every centroid in every quarter, (N, 4, K)."""
    code = vit.embeddings.position_embeddings[0, 1:, CODE:SUM]
    share = code / code.sum(0)
    found = [
        torch.einsum("btk,tq->bqk", F.gelu(vit.layers[0].mlp.fc1(_tokens(vit, some))), share)
        for some in images.split(50)
    ]
    return torch.cat(found).unflatten(2, (offsets, -1)).sum(2)


def _some(images: Tensor, number: int) -> Tensor:
    return images[:: max(1, len(images) // number)]
