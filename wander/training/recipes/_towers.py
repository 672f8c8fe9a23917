"""How each tower of a small BEiT-3 learns by itself: to see, and to read. Knows no pairs of image and text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wander.adapters.multiway import Modality
from wander.backbones.beit3 import EOS, BEiT3
from wander.training.recipes._annealing import Annealing, anneal
from wander.training.recipes._captioned_corpus import Captioned, CaptionedPart, Pictures, padded, pixels
from wander.training.recipes._captions import Sentences
from wander.training.recipes.base import Notify

CHUNK = 256
MOST = 1000
"""Pictures from which the principal components are taken."""
LENGTHS = 3
"""Captions of a batch differ by about so many tokens at most, so that little of it is padding."""


@dataclass(frozen=True)
class Told:
    """Pictures (N, s, s, 3) and what is told of each, float32 (N, D)."""

    pictures: Pictures
    values: Tensor


def learn_to_see(host: BEiT3, train: Told, valid: Told, schedule: Annealing, notify: Notify) -> dict[str, float]:
    """The vision tower tells what is told of pictures. Returns its squared error on valid by the variance."""
    start_patches_(host, pixels(train.pictures))
    spread = train.values.std()
    images, wanted = pixels(valid.pictures), valid.values / spread
    teller = nn.Linear(host.config.embed_dim, wanted.shape[1])
    found = {"error": float("nan")}

    def loss(rows: Tensor) -> Tensor:
        return F.mse_loss(teller(see(host, pixels(train.pictures[rows.numpy()]))), train.values[rows] / spread)

    def measure(epoch: int) -> None:
        with torch.no_grad():
            found["error"] = float(F.mse_loss(teller(see(host, images)), wanted) / wanted.var())
        notify("vision", epoch, schedule.epochs, found["error"])

    trained = [*part_of(host, "image"), *teller.parameters()]
    anneal(trained, lambda: torch.randperm(len(train.values)).split(schedule.batch_size), loss, schedule, measure)
    return {name: round(value, 4) for name, value in found.items()}


def learn_to_read(host: BEiT3, corpus: Captioned, schedule: Annealing, notify: Notify) -> dict[str, float]:
    """The language tower, with its head, tells a caption's place among sentences. Returns 1 - cosine on valid."""
    train, valid, width = corpus.train, corpus.valid, host.config.embed_dim
    sentences = Sentences(train.captions, train.owners, corpus.more, corpus.tokens, width)
    start_words_(host, sentences)
    captions = [*train.captions, *(texts[0] for texts in corpus.more)]
    places, wanted = torch.from_numpy(sentences(captions)), torch.from_numpy(sentences(valid.captions))
    lengths = torch.tensor([len(caption) for caption in captions])
    trained = [*part_of(host, "text"), *host.language_head.parameters()]
    found = {"distance": float("nan")}

    def batches() -> list[Tensor]:
        near = (lengths + LENGTHS * torch.rand(len(lengths))).argsort().split(schedule.batch_size)
        return [near[number] for number in torch.randperm(len(near)).tolist()]

    def loss(rows: Tensor) -> Tensor:
        told = host.language_head(read(host, [captions[row] for row in rows.tolist()]))
        return 1 - F.cosine_similarity(told, places[rows], dim=-1).mean()

    def measure(epoch: int) -> None:
        with torch.no_grad():
            told = host.language_head(read(host, valid.captions))
        found["distance"] = float(1 - F.cosine_similarity(told, wanted, dim=-1).mean())
        notify("language", epoch, schedule.epochs, found["distance"])

    anneal(trained, batches, loss, schedule, measure)
    return {name: round(value, 4) for name, value in found.items()}


@contextmanager
def read_out(host: BEiT3) -> Iterator[None]:
    """Of the last layer only token 0 is computed meanwhile, for nothing else is read: the same for less work."""
    last = list(host.encoder)[-1]
    last.read_out = True
    try:
        yield
    finally:
        last.read_out = False


def part_of(host: BEiT3, modality: Modality) -> list[nn.Parameter]:
    """The parameters of one tower of a host without adapter, but for its head."""
    embeds, side = {"image": ("vision_embed.", ".A."), "text": ("text_embed.", ".B.")}[modality]
    return [p for name, p in host.named_parameters() if name.startswith(embeds) or side in name]


def start_patches_(host: BEiT3, images: Tensor) -> None:
    """The patch embedding starts as the principal components of patches, as far as there are enough."""
    projection, side = host.vision_embed.proj, host.config.patch_size
    patches = F.unfold(images[torch.linspace(0, len(images) - 1, min(len(images), MOST)).long()], side, stride=side)
    patches = patches.mT.flatten(0, 1)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    count = min(len(values), host.config.embed_dim)
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    with torch.no_grad():
        axes = (vectors / (values + values[min(20, count - 1)]).sqrt()).T
        projection.weight[:count] = axes.unflatten(1, (3, side, side))
        assert projection.bias is not None
        projection.bias[:count] = -axes @ patches.mean(0)


def start_words_(host: BEiT3, sentences: Sentences) -> None:
    """Tokens start as their vectors in the space of sentences, the longer the rarer."""
    words = torch.from_numpy(sentences.words * sentences.rarity[:, None])
    with torch.no_grad():
        host.text_embed.weight.copy_(words / words.std())
        host.text_embed.weight[: EOS + 1].normal_(std=0.1)


def see(host: BEiT3, images: Tensor) -> Tensor:
    """Pixels to what the vision head reads (N, E)."""
    parts = images.split(CHUNK)
    return torch.cat([host.encoder(host.vision_embed(part), "image", None) for part in parts])


def read(host: BEiT3, captions: Sequence[Sequence[int]]) -> Tensor:
    """Token ids to what the language head reads (N, E)."""
    found = []
    for at in range(0, len(captions), CHUNK):
        ids, padding = padded(captions[at : at + CHUNK])
        mask = torch.zeros_like(padding, dtype=torch.float32).masked_fill(padding != 0, -torch.inf)
        found.append(host.encoder(host.text_embed(ids), "text", mask[:, None, None]))
    return torch.cat(found)


@torch.no_grad()
def features(host: BEiT3, part: CaptionedPart) -> dict[Modality, Tensor]:
    """What the heads read of all images (N, E) and all captions (C, E)."""
    return {"image": see(host, part.images()), "text": read(host, part.captions)}


@torch.no_grad()
def embeddings(host: BEiT3, part: CaptionedPart) -> dict[Modality, Tensor]:
    """Unit vectors of all images (N, E) and all captions (C, E)."""
    found = features(host, part)
    heads = {"image": host.vision_head, "text": host.language_head}
    return {modality: F.normalize(heads[modality](value), dim=-1) for modality, value in found.items()}
