"""How two towers of a BEiT-3 are brought together: where the heads start, and the loss of a batch of pairs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from wander.backbones.beit3 import BEiT3
from wander.training.recipes._captioned_corpus import CaptionedPart
from wander.training.recipes._towers import embeddings, features


def start_heads_(host: BEiT3, language: Tensor, part: CaptionedPart, ridge: float) -> Tensor:
    """The language head is given; the vision head maps images on the means of their captions. Returns these (N, E)."""
    with torch.no_grad():
        host.language_head.weight.copy_(language)
        texts, owners = embeddings(host, part)["text"], torch.from_numpy(part.owners)
        places = torch.stack([F.normalize(texts[owners == image].mean(0), dim=-1) for image in range(len(part))])
        host.vision_head.weight.copy_(regression(features(host, part)["image"], places, ridge).T)
    return places


def regression(inputs: Tensor, outputs: Tensor, ridge: float) -> Tensor:
    """The map (D, E) from (N, D) to (N, E), damped by `ridge` times the mean square of the inputs."""
    inputs, outputs = inputs.double(), outputs.double()
    square = inputs.T @ inputs
    damped = square + ridge * square.diagonal().mean() * torch.eye(len(square), dtype=torch.float64)
    return torch.linalg.solve(damped, inputs.T @ outputs).float()


def contrast(host: BEiT3, images: Tensor, texts: Tensor) -> Tensor:
    """Each image of a batch has to find its caption among all, and each caption its image."""
    scores = host.logit_scale.exp() * images @ texts.T
    own = torch.arange(len(scores))
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2
