"""The food host: ViT and BERT, an encoder over the tokens of both, the adapter over its output, a two-layer head.

The head reads token 0 of what the adapter gives, whose residual is the fused CLS token of the image; without an adapter
it reads that token itself. Texts are padded to a fixed length: BERT is told which tokens are padding, while the encoder
and the adapter take them for tokens, as in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from wander.adapters import Adapter, AdapterConfig
from wander.adapters.wander import Wander, WanderConfig
from wander.backbones._encoder import Encoder
from wander.backbones._fitting import fitting
from wander.backbones._pretrained import BertSizes, VitSizes, fold_scales_
from wander.backbones.base import BackboneConfig, Fold, HeadConfig, Host, Tower, TowerModule
from wander.errors import ConfigError
from wander.signature import BATCH, Signature, TensorSpec

MASKED = -1e4
"""Added to the scores of padding: far enough down that its weight is exactly 0, and still a number in float16."""


class BertViTConfig(BackboneConfig):
    """Sizes of the frozen part.

    Attributes:
        embed_dim: E, width of both towers and of the fusion encoder.
        vit, bert: the other sizes of the towers.
        text_length: L, number of text tokens; inputs are padded to exactly these.
        fusion_heads, fusion_layers: of the encoder over all tokens.
        attention_layout: `normal` lets every token attend to those of its item. `released_b1` is what the released code
            computes for an item that is alone in its batch: it feeds a batch-first tensor to a time-first encoder, so
            every token is the first of a sequence of its own. (With more items it attends across the batch, so that an
            answer depends on its batch mates; that is not offered.)
    """

    kind: Literal["bert_vit"] = "bert_vit"
    embed_dim: int
    vit: VitSizes
    bert: BertSizes
    text_length: int = Field(default=50, ge=1)
    fusion_heads: int = Field(default=8, ge=1)
    fusion_layers: int = Field(default=2, ge=1)
    attention_layout: Literal["normal", "released_b1"] = "normal"

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        for name, heads in (("vit", self.vit.heads), ("bert", self.bert.heads), ("fusion", self.fusion_heads)):
            if self.embed_dim % heads:
                raise ValueError(f"{heads} heads of {name} do not divide embed_dim {self.embed_dim}")
        if self.vit.image_size % self.vit.patch_size:
            raise ValueError(f"patch_size {self.vit.patch_size} does not divide image_size {self.vit.image_size}")
        if self.text_length > self.bert.max_positions:
            raise ValueError(f"text_length {self.text_length} is more than max_positions {self.bert.max_positions}")
        return self

    @property
    def lengths(self) -> tuple[int, int]:
        """Number of tokens of image and text, which is what the adapter's lengths must be."""
        return self.vit.tokens, self.text_length

    @classmethod
    def from_pretrained(cls, vision: str, text: str, **options: Any) -> Self:
        """The sizes of published towers (Hugging Face ids or local folders); `options` are the other attributes.

        Raises CheckpointError if one cannot be had, ConfigError if they are no ViT and BERT of one width.
        """
        (width, vit), (text_width, bert) = VitSizes.of(vision), BertSizes.of(text)
        if width != text_width:
            raise ConfigError(f"{vision} is {width} wide and {text} {text_width}; the fusion encoder needs one width")
        return cls(embed_dim=width, vit=vit, bert=bert, **options)


class BertViTHead(HeadConfig):
    """`activation` is ReLU in the authors' adapted model and GELU (erf) in the model that they adapt."""

    out_dim: int = Field(ge=1)
    activation: Literal["relu", "gelu"] = "relu"


class BertViT(Host):
    """Frozen: `vision_encoder.*`, `text_encoder.*`, `fusion.*`; trained: `adapter.*`, `proj1.*`, `out_layer.*`.

    The towers' parameters have the names of transformers 5. Their poolers, which nothing reads, are left out.
    """

    Config = BertViTConfig
    Head = BertViTHead

    def __init__(
        self, config: BertViTConfig, adapter: Adapter | None, head: BertViTHead, vision: Any, text: Any
    ) -> None:
        super().__init__()
        width = config.embed_dim
        self.config = config
        self.vision_encoder: Any = vision  # a ViTModel and a BertModel of the transformers package
        self.text_encoder: Any = text
        self.fusion = Encoder(
            width,
            config.fusion_heads,
            config.fusion_layers,
            sum(config.lengths),
            alone=config.attention_layout == "released_b1",
        )
        self.adapter: nn.Module | None = adapter
        self.proj1 = nn.Linear(width, width)
        self.out_layer = nn.Linear(width, head.out_dim)
        self.activation = F.relu if head.activation == "relu" else F.gelu
        self.keep: slice | None = None

    @classmethod
    def build(cls, config: BackboneConfig, adapter: AdapterConfig | None, head: HeadConfig) -> Self:
        assert isinstance(config, BertViTConfig)
        assert isinstance(head, BertViTHead)
        width = config.embed_dim
        built = fitting(adapter, width, config.lengths)
        return cls(config, built, head, config.vit.build(width), config.bert.build(width))

    @classmethod
    def from_pretrained(
        cls, vision: str, text: str, adapter: AdapterConfig | None, head: BertViTHead, **options: Any
    ) -> Self:
        """A host on published towers, to be trained: fusion encoder, adapter and head are freshly initialised.

        Args:
            vision, text: Hugging Face ids or local folders, e.g. `google/vit-base-patch16-224`, `bert-base-uncased`.
            options: as for `BertViTConfig.from_pretrained`, which tells the lengths that the adapter needs.

        Raises CheckpointError for weights that cannot be had or are incomplete, ConfigError for parts that do not fit.
        """
        config = BertViTConfig.from_pretrained(vision, text, **options)
        width = config.embed_dim
        built = fitting(adapter, width, config.lengths)
        return cls(config, built, head, config.vit.load(width, vision), config.bert.load(width, text))

    @classmethod
    def example(cls) -> tuple[BackboneConfig, AdapterConfig | None, HeadConfig]:
        config = BertViTConfig(
            embed_dim=8,
            vit=VitSizes(layers=1, heads=2, intermediate=12, image_size=8, patch_size=4),
            bert=BertSizes(layers=1, heads=2, intermediate=12, vocab=20, max_positions=6),
            text_length=4,
            fusion_heads=2,
            fusion_layers=2,
        )
        adapter = WanderConfig(embed_dim=8, lengths=config.lengths, down_dim=3, tokens=3, rank_h=2, rank_t=2)
        return config, adapter, BertViTHead(out_dim=3)

    @property
    def adapter_module(self) -> Adapter | None:
        return self.adapter if isinstance(self.adapter, Adapter) else None

    def is_adapted(self, name: str) -> bool:
        return name.startswith(("adapter.", "proj1.", "out_layer."))

    def hidden(self, image: Tensor, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """What the towers give, (B, ℓ_v, E) and (B, L, E).

        Args:
            image: (B, 3, s, s) float, normalised.
            input_ids, attention_mask: (B, L) int64; the mask is 0 at padding.
        """
        padding = (attention_mask == 0).to(image.dtype)[:, None, None, :] * MASKED
        vision = self.vision_encoder(image).last_hidden_state
        types = input_ids.new_zeros(1, input_ids.shape[1])
        text = self.text_encoder(input_ids, attention_mask=padding, token_type_ids=types).last_hidden_state
        return vision, text

    def fused(self, vision: Tensor, text: Tensor) -> list[Tensor]:
        """Image and text tokens after the fusion encoder: (B, ℓ_v, E) and (B, L, E), or those that are read."""
        tokens = self.fusion(torch.cat([vision, text], 1), self.keep)
        return list(tokens.split(self.config.lengths if self.keep is None else 1, 1))

    def logits(self, fused: list[Tensor]) -> Tensor:
        """What `fused` gives, through adapter and head, to (B, out_dim)."""
        token = fused[0][:, 0] if self.adapter is None else self.adapter(fused)[:, 0]
        return self.out_layer(self.activation(self.proj1(token)))

    def forward(self, image: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Arguments as `hidden`; to (B, out_dim), before any softmax."""
        return self.logits(self.fused(*self.hidden(image, input_ids, attention_mask)))

    def towers(self, output: str) -> Mapping[str, Tower]:
        size, length = self.config.vit.image_size, self.config.text_length
        inputs = (
            TensorSpec(name="image", dtype="float32", dims=(BATCH, 3, size, size)),
            TensorSpec(name="input_ids", dtype="int64", dims=(BATCH, length)),
            TensorSpec(name="attention_mask", dtype="int64", dims=(BATCH, length)),
        )
        outputs = (TensorSpec(name=output, dtype="float32", dims=(BATCH, self.out_layer.out_features)),)
        return {"model": Tower(TowerModule(self, self.forward), Signature(inputs=inputs, outputs=outputs))}

    def folds(self) -> list[Fold]:
        """The fusion encoder can be cut to the tokens that are read only if those are few.

        That holds without an adapter and for one that fuses first tokens: then its last layer, or where tokens are
        alone (`released_b1`) all of it, runs for these only. Any other adapter pools over all tokens after its
        activation, u_mᵀ·GELU(Down h_m), so that every fused token counts and nothing can be cut. The final norm of the
        encoder stays as it is, for the residual reads it besides Down.
        """
        found = [
            Fold("encoder_scales", "√E into the towers' last norms, attention scales into q", self._fold_scales),
            Fold(
                "encoder_norms", "norms of the fusion encoder into the projections after them", self.fusion.fold_norms_
            ),
        ]
        if self.config.attention_layout == "released_b1":
            found.append(Fold("own_value", "value and output projections as one", self.fusion.fold_outputs_))
        if self._read() is not None:
            found.append(
                Fold("read_tokens", "no more of the fusion encoder than the tokens that are read need", self._fold_read)
            )
        if isinstance(self.adapter, Wander):
            found.append(Fold("adapter", "ranks summed, only the token that the head reads", self._fold_adapter))
        return found

    def _fold_scales(self) -> None:
        last = self.text_encoder.encoder.layer[-1]
        self.fusion.fold_scales_(self.vision_encoder.layernorm, last.output.LayerNorm)
        for tower in (self.vision_encoder, self.text_encoder):
            fold_scales_(tower)

    def _fold_adapter(self) -> None:
        assert isinstance(self.adapter, Wander)
        self.adapter = self.adapter.fold(tokens=1)

    def _fold_read(self) -> None:
        self.keep = self._read()

    def _read(self) -> slice | None:
        """The fused tokens that count: the first, the first of image and of text, or all (None)."""
        if self.adapter is None:
            return slice(0, 1)
        if isinstance(self.adapter, Wander) and self.adapter.config.first_token_only:
            first = self.config.vit.tokens
            return slice(0, first + 1, first)
        return None

    def random_inputs(self, tower: str, rows: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Normal images, texts of one token to L."""
        assert tower == "model"
        size, length = self.config.vit.image_size, self.config.text_length
        mask = np.arange(length) < rng.integers(1, length + 1, (rows, 1))
        return {
            "image": rng.standard_normal((rows, 3, size, size)).astype(np.float32),
            "input_ids": rng.integers(1, self.config.bert.vocab, (rows, length)) * mask,
            "attention_mask": mask.astype(np.int64),
        }


plugin = BertViT
