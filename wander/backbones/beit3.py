"""BEiT-3 for image-text retrieval: one multiway transformer, two towers whose embeddings are compared by dot product.

The towers share the enhancer of the MultiWay-Adapter and nothing else. Attention, norms and activations are computed in
the dtype of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from wander.adapters import Adapter, AdapterConfig, adapters
from wander.adapters.multiway import MultiWay, MultiWayConfig
from wander.backbones._multiway_layers import Encoder, Layer, Multiway, bare
from wander.backbones.base import BackboneConfig, Fold, HeadConfig, Host, Tower, TowerModule
from wander.errors import ConfigError
from wander.signature import BATCH, Signature, TensorSpec

TOKENS = "tokens"
BOS, PAD, EOS = 0, 1, 2
SPECIAL_ROWS = 3
"""Of the position table of images: two that fairseq keeps unused, and that of the class token. The patches follow."""

PUBLISHED: dict[str, dict[str, int]] = {
    "base": {"embed_dim": 768, "num_heads": 12, "layers": 12, "ffn_dim": 3072},
    "large": {"embed_dim": 1024, "num_heads": 16, "layers": 24, "ffn_dim": 4096},
}


class BEiT3Config(BackboneConfig):
    """Sizes.

    Attributes:
        embed_dim: E.
        num_heads: not told by weights.
        layers, ffn_dim: number of layers and width of their FFNs.
        image_size, patch_size: images are square and hold a whole number of patches a side.
        vocab_size: rows of the token table.
        text_positions: rows of the position table of texts; a text has at most two tokens fewer.
    """

    kind: Literal["beit3"] = "beit3"
    embed_dim: int = Field(ge=1)
    num_heads: int = Field(ge=1)
    layers: int = Field(ge=1)
    ffn_dim: int = Field(ge=1)
    image_size: int = Field(default=224, ge=1)
    patch_size: int = Field(default=16, ge=1)
    vocab_size: int = Field(default=64010, ge=4)
    text_positions: int = Field(default=1024, ge=4)

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} does not divide embed_dim {self.embed_dim}")
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} does not divide image_size {self.image_size}")
        return self

    @classmethod
    def published(cls, name: Literal["base", "large"], image_size: int = 224) -> Self:
        """The sizes of the released models."""
        return cls.model_validate({**PUBLISHED[name], "image_size": image_size})

    @property
    def patches(self) -> int:
        """Number of patches of an image."""
        return (self.image_size // self.patch_size) ** 2


class VisionEmbedding(nn.Module):
    """Patches, row by row, behind a class token. `mask_token` serves pre-training only."""

    def __init__(self, embed_dim: int, patch_size: int) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.proj = nn.Conv2d(3, embed_dim, patch_size, patch_size)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, s, s) to (B, 1 + patches, E)."""
        return torch.cat([self.cls_token.expand(image.shape[0], -1, -1), self.proj(image).flatten(2).mT], 1)


class BEiT3(Host):
    """Names are those of the authors' checkpoints without `beit3.`.

    Adapted, beside the adapter's parts inside the layers: `language_head.weight`, `vision_head.weight`, `logit_scale`,
    which retrieval adds to the pre-trained model. The released run trains them only if the file it starts from lacks
    them; they ship with the adapter in either case, so that it is complete.

    What of an adapter merges with the backbone, exactly: the scalar with the up-projection; the up-projection with fc2,
    as both add to the same stream; a LayerNorm `in` with that of the FFN, which takes the same mean and deviation.
    What does not: `down` with fc1, because one reads x and the other LN(x), and an output LayerNorm with anything. With
    `in` both read the same, but one matrix for them costs a split of the wide activation and measured no faster. The
    enhancer is a layer of its own: it follows the FFN's residual, so nothing can be multiplied out.
    """

    Config = BEiT3Config
    config: BEiT3Config

    def __init__(self, config: BEiT3Config, adapter: MultiWay | None) -> None:
        super().__init__()
        self.config = config
        width = config.embed_dim
        self.text_embed = nn.Embedding(config.vocab_size, width)
        self.vision_embed = VisionEmbedding(width, config.patch_size)
        positions = Multiway(
            nn.Embedding(config.patches + SPECIAL_ROWS, width), nn.Embedding(config.text_positions, width)
        )
        parts = adapter.parts() if adapter is not None else [None] * config.layers
        run = adapter is not None and adapter.config.option == "parallel"
        self.encoder = Encoder(positions, [Layer(width, config.num_heads, config.ffn_dim, part, run) for part in parts])
        self.language_head = nn.Linear(width, width, bias=False)
        self.vision_head = nn.Linear(width, width, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        # In a tuple, so that the adapter's parts are registered once: in the layers, under the authors' names.
        self._adapter = (adapter,)

    @classmethod
    def build(cls, config: BackboneConfig, adapter: AdapterConfig | None, head: HeadConfig) -> Self:
        assert isinstance(config, BEiT3Config)
        if adapter is None:
            return cls(config, None)
        if not isinstance(adapter, MultiWayConfig):
            raise ConfigError(f"the BEiT-3 host takes an adapter inside its layers (multiway), not {adapter.kind!r}")
        if (adapter.embed_dim, adapter.layers) != (config.embed_dim, config.layers):
            raise ConfigError(
                f"the adapter (embed_dim {adapter.embed_dim}, {adapter.layers} layers) does not fit the backbone "
                f"(embed_dim {config.embed_dim}, {config.layers} layers)"
            )
        built = adapters.get(adapter.kind).build(adapter)
        assert isinstance(built, MultiWay)
        return cls(config, built)

    @classmethod
    def example(cls) -> tuple[BackboneConfig, AdapterConfig | None, HeadConfig]:
        adapter = MultiWay.example_config()
        config = BEiT3Config(
            embed_dim=adapter.embed_dim,
            num_heads=2,
            layers=adapter.layers,
            ffn_dim=20,
            image_size=8,
            patch_size=4,
            vocab_size=13,
            text_positions=20,
        )
        return config, adapter, HeadConfig()

    @property
    def adapter_module(self) -> Adapter | None:
        return self._adapter[0]

    def is_adapted(self, name: str) -> bool:
        return (
            ".adaptmlp_" in name
            or ".enhancemlp." in name
            or name.startswith(("language_head", "vision_head", "logit_scale"))
        )

    def image(self, image: Tensor) -> Tensor:
        """Normalised pixels (B, 3, s, s) to unit vectors (B, E)."""
        return F.normalize(self.vision_head(self.encoder(self.vision_embed(image), "image", None)), dim=-1)

    def text(self, text_ids: Tensor, padding_mask: Tensor) -> Tensor:
        """Token ids and padding (1 at padding), both int64 (B, T), to unit vectors (B, E).

        The released code also zeroes the embeddings at padding. That changes nothing: token 0 alone is read, and keys
        at padding have a weight of exactly 0 in every layer.
        """
        x = self.text_embed(text_ids)
        mask = torch.zeros_like(padding_mask, dtype=x.dtype).masked_fill(padding_mask != 0, -torch.inf)
        return F.normalize(self.language_head(self.encoder(x, "text", mask[:, None, None])), dim=-1)

    def towers(self, output: str) -> Mapping[str, Tower]:
        """`image` and `text`; they name their results themselves, `image_embedding` and `text_embedding`."""
        side = self.config.image_size
        vector = (BATCH, self.config.embed_dim)
        image = Signature(
            inputs=(TensorSpec(name="image", dtype="float32", dims=(BATCH, 3, side, side)),),
            outputs=(TensorSpec(name="image_embedding", dtype="float32", dims=vector),),
        )
        text = Signature(
            inputs=tuple(
                TensorSpec(name=name, dtype="int64", dims=(BATCH, TOKENS)) for name in ("text_ids", "padding_mask")
            ),
            outputs=(TensorSpec(name="text_embedding", dtype="float32", dims=vector),),
        )
        return {
            "image": Tower(TowerModule(self, self.image), image),
            "text": Tower(TowerModule(self, self.text), text),
        }

    def folds(self) -> list[Fold]:
        adapter = self._adapter[0]
        found = [
            Fold("read_out", "of the last layer only token 0 is computed, over the keys of all", self._fold_read_out),
            Fold("scales", "attention scales into q, adapter scalars into up", self._fold_scales),
            Fold("norms", "weights and biases of LayerNorms into the matrices that read them", self._fold_norms),
        ]
        if adapter is not None and adapter.config.option == "parallel" and adapter.config.layernorm != "out":
            found.append(Fold("adapter", "extractor and FFN end in one matrix", self._fold_adapter))
        packed = Fold("packed_attention", "q, k and v from one matrix, where all tokens ask", self._fold_packed)
        return [*found, packed]

    def _fold_read_out(self) -> None:
        list(self.encoder)[-1].read_out = True

    def _fold_scales(self) -> None:
        for layer in self.encoder:
            layer.fold_scales_()

    def _fold_norms(self) -> None:
        for layer in self.encoder:
            layer.fold_norms_()
        last = self.encoder.layer_norm
        last["image"] = bare(last["image"], self.vision_head)
        last["text"] = bare(last["text"], self.language_head)

    def _fold_adapter(self) -> None:
        for layer in self.encoder:
            layer.merge_extractors_()
        self._adapter = (None,)

    def _fold_packed(self) -> None:
        for layer in self.encoder:
            if not layer.read_out:
                layer.self_attn.pack_()

    def random_inputs(self, tower: str, rows: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Pixels within -1..1; texts of different lengths between <s> and </s>, padded to one."""
        config = self.config
        if tower == "image":
            pixels = rng.uniform(-1, 1, (rows, 3, config.image_size, config.image_size))
            return {"image": pixels.astype(np.float32)}
        assert tower == "text"
        width = min(16, config.text_positions - 2)
        lengths = rng.integers(2, width + 1, (rows, 1))
        place = np.arange(width)
        ids = rng.integers(EOS + 1, config.vocab_size, (rows, width))
        ids = np.where(place == 0, BOS, np.where(place < lengths - 1, ids, np.where(place < lengths, EOS, PAD)))
        return {"text_ids": ids.astype(np.int64), "padding_mask": (place >= lengths).astype(np.int64)}


def interpolate_positions(table: Tensor, patches: int) -> Tensor:
    """The position table of images for another number of patches, as the published loader makes it.

    Args:
        table: (3 + grid², E); the first three rows are kept, the grid is resized bicubically.
        patches: of the new grid, a square number.

    Raises ConfigError if either number of patches is not a square.
    """
    old, new = math.isqrt(len(table) - SPECIAL_ROWS), math.isqrt(patches)
    if old * old + SPECIAL_ROWS != len(table) or new * new != patches:
        raise ConfigError(f"{len(table) - SPECIAL_ROWS} to {patches} positions: both must be square numbers")
    if old == new:
        return table
    grid = table[SPECIAL_ROWS:].T.reshape(1, -1, old, old)
    resized = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([table[:SPECIAL_ROWS], resized.flatten(2)[0].T])


plugin = BEiT3
