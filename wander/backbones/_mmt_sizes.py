"""Sizes of MMT: of its experts, its video transformer and its text side; and what is trained along with an adapter."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator
from torch import nn

from wander.backbones._pretrained import BertSizes
from wander.backbones.base import BackboneConfig, HeadConfig

PUBLISHED: dict[str, tuple[int, int]] = {
    "face": (512, 3),
    "ocr": (300, 7),
    "rgb": (2048, 5),
    "s3d": (1024, 1),
    "scene": (2208, 9),
    "speech": (300, 6),
    "vggish": (128, 2),
}
"""The experts of the published models, in their order: width of the features, row of the type table."""


class MMTConfig(BackboneConfig):
    """Sizes.

    Attributes:
        experts: names in order; published models have face, ocr, rgb, s3d, scene, speech, vggish.
        feature_dims, token_types: of each expert, the width of its features and its row of the type table.
        embed_dim: E, of every expert's vector (`same_dim`).
        num_heads, layers, ffn_dim: of the video transformer. Not told by weights: the heads.
        positions, type_vocab: rows of its tables. Position 0 is none, 1 unknown, from 2 on one a second.
        tokens: feature tokens of an expert; an input has exactly these, with a mask.
        text: sizes of BERT; `text_width` is that of its states.
        dropout: of the video transformer, in training only.
    """

    kind: Literal["mmt"] = "mmt"
    experts: tuple[str, ...] = Field(min_length=1)
    feature_dims: tuple[int, ...]
    token_types: tuple[int, ...]
    embed_dim: int = Field(default=512, ge=1)
    num_heads: int = Field(default=4, ge=1)
    layers: int = Field(default=4, ge=1)
    ffn_dim: int = Field(default=3072, ge=1)
    positions: int = Field(default=32, ge=2)
    type_vocab: int = Field(default=19, ge=1)
    tokens: int = Field(default=30, ge=1)
    text: BertSizes
    text_width: int = Field(ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        for name, least in (("feature_dims", 1), ("token_types", 0)):
            sizes = getattr(self, name)
            if len(sizes) != len(self.experts) or any(size < least for size in sizes):
                raise ValueError(f"{name} {list(sizes)} must hold one number for each of {', '.join(self.experts)}")
        taken = nn.ModuleDict()
        for expert in self.experts:
            if not expert.isidentifier() or hasattr(taken, expert):
                raise ValueError(f"experts: {expert!r} cannot be the name of an expert")
        if len(set(self.experts)) < len(self.experts):
            raise ValueError("experts must have different names")
        if max(self.token_types) >= self.type_vocab:
            raise ValueError(f"token_types {list(self.token_types)} are more than type_vocab {self.type_vocab} allows")
        for name, width, heads in (
            ("num_heads", self.embed_dim, self.num_heads),
            ("text.heads", self.text_width, self.text.heads),
        ):
            if width % heads:
                raise ValueError(f"{name} {heads} does not divide {width}")
        return self

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each expert, AGG and features, which is what the adapter's lengths must be."""
        return (self.tokens + 1,) * len(self.experts)


class MMTHead(HeadConfig):
    """What is trained along with the adapter: the experts' weights, and if `units`, the gated units of the text."""

    units: bool = False
