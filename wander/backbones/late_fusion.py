"""The late-fusion host of CMU-MOSI and IEMOCAP: an encoder a modality, the adapter over all, a four-layer head.

Without an adapter the head reads token 0 of every modality; with one it reads the adapter's token 0, repeated once a
modality, as the released code does.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from wander.adapters import Adapter, AdapterConfig
from wander.adapters.wander import FoldedWander, Wander
from wander.backbones._attribution import mean_gradient
from wander.backbones._bounded_attention import BOUND, BoundedAttention, score_bound
from wander.backbones._encoder import Encoder, EncoderLayer, SelfAttention
from wander.backbones._fitting import fitting
from wander.backbones.base import BackboneConfig, Fold, HeadConfig, Host, Tower, TowerModule
from wander.manifest import CONTRIBUTIONS, EXPLAIN, MAIN, RESIDUAL
from wander.signature import BATCH, Signature, TensorSpec

NARROW_HEAD = 16
"""Heads of fewer features leave most of a processor's vector unused, unless they are laid out along the tokens."""


class LateFusionConfig(BackboneConfig):
    """Sizes of the frozen part.

    Attributes:
        modalities: names in order; they are the names of the graph's inputs.
        feature_dims: D_m, width of the raw features.
        lengths: ℓ_m, number of tokens; inputs have exactly these.
        embed_dim: E.
        num_heads, encoder_layers: of every encoder. Not told by a plain state dict: the heads.
        standardise: the host holds the mean and deviation of the training features and applies them first. An addition
            of ours; the authors' checkpoints take features as they are.
        dropout: training only; the released run used attention .2, relu .2, embed .15, residual .2, out .1.
    """

    kind: Literal["late_fusion"] = "late_fusion"
    modalities: tuple[str, ...] = Field(min_length=1)
    feature_dims: tuple[int, ...]
    lengths: tuple[int, ...]
    embed_dim: int
    num_heads: int
    encoder_layers: int
    standardise: bool = False
    dropout: dict[Literal["attention", "relu", "embed", "residual", "out"], float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_size_a_modality(self) -> Self:
        for name in ("feature_dims", "lengths"):
            sizes = getattr(self, name)
            if len(sizes) != len(self.modalities) or any(size < 1 for size in sizes):
                raise ValueError(f"{name} {list(sizes)} must hold one size for each of {', '.join(self.modalities)}")
        return self


class LateFusionHead(HeadConfig):
    """`out_dim` is 1 for a sentiment score, or the number of classes."""

    out_dim: int = Field(ge=1)


class LateFusion(Host):
    """Frozen: `proj.{m}.*`, `encoders.{m}.*`; trained: `adapter.*`, `out_layer_proj0/1/2.*`, `out_layer.*`."""

    Config = LateFusionConfig
    Head = LateFusionHead

    def __init__(self, config: LateFusionConfig, adapter: Adapter | None, head: LateFusionHead) -> None:
        super().__init__()
        self.config = config
        width = config.embed_dim
        drop = config.dropout
        self.proj = nn.ModuleList(nn.Conv1d(features, width, 1) for features in config.feature_dims)
        self.encoders = nn.ModuleList(
            Encoder(
                width,
                config.num_heads,
                config.encoder_layers,
                length,
                attention_dropout=drop.get("attention", 0.0),
                relu_dropout=drop.get("relu", 0.0),
                residual_dropout=drop.get("residual", 0.0),
                embed_dropout=drop.get("embed", 0.0),
            )
            for length in config.lengths
        )
        if config.standardise:
            self.feature_mean = nn.ParameterList(frozen(torch.zeros(features)) for features in config.feature_dims)
            self.feature_std = nn.ParameterList(frozen(torch.ones(features)) for features in config.feature_dims)
        self.adapter: nn.Module | None = adapter
        self.out_layer_proj0 = nn.Linear(width * len(config.modalities), width)
        self.out_layer_proj1 = nn.Linear(width, width)
        self.out_layer_proj2 = nn.Linear(width, width)
        self.out_layer = nn.Linear(width, head.out_dim)
        self.repeats = len(config.modalities)

    @classmethod
    def build(cls, config: BackboneConfig, adapter: AdapterConfig | None, head: HeadConfig) -> Self:
        assert isinstance(config, LateFusionConfig)
        assert isinstance(head, LateFusionHead)
        return cls(config, fitting(adapter, config.embed_dim, config.lengths), head)

    @classmethod
    def example(cls) -> tuple[BackboneConfig, AdapterConfig | None, HeadConfig]:
        adapter = Wander.example_config()
        config = LateFusionConfig(
            modalities=("text", "audio", "vision"),
            feature_dims=(7, 3, 5),
            lengths=adapter.lengths,
            embed_dim=adapter.embed_dim,
            num_heads=2,
            encoder_layers=1,
            standardise=True,
        )
        return config, adapter, LateFusionHead(out_dim=2)

    @property
    def adapter_module(self) -> Adapter | None:
        return self.adapter if isinstance(self.adapter, Adapter) else None

    def is_adapted(self, name: str) -> bool:
        return name.startswith(("adapter.", "out_layer"))

    def branches(self) -> list[tuple[nn.Conv1d, Encoder]]:
        """Projection and encoder of every modality."""
        return cast("list[tuple[nn.Conv1d, Encoder]]", list(zip(self.proj, self.encoders, strict=True)))

    def hidden(self, *features: Tensor) -> list[Tensor]:
        """Raw features (B, ℓ_m, D_m), one a modality, to encoder outputs h_m (B, ℓ_m, E)."""
        if self.config.standardise:
            features = tuple(
                (x - mean) / std for x, mean, std in zip(features, self.feature_mean, self.feature_std, strict=True)
            )
        # A convolution of width 1 is a matrix product; as one it needs no transposition.
        return [
            encoder(F.linear(x, proj.weight.squeeze(2), proj.bias))
            for x, (proj, encoder) in zip(features, self.branches(), strict=True)
        ]

    def forward(self, *features: Tensor) -> Tensor:
        """Raw features (B, ℓ_m, D_m), one a modality, to (B, out_dim)."""
        return self.fused(*self.hidden(*features))

    def fused(self, *hidden: Tensor) -> Tensor:
        """Encoder outputs h_m (B, ℓ_m, E), one a modality, through adapter and head, to (B, out_dim)."""
        if self.adapter is None:
            read = torch.cat([h[:, 0] for h in hidden], 1)
        else:
            read = self._repeated(self.adapter(hidden)[:, 0])
        return self.head(read)

    def _repeated(self, token: Tensor) -> Tensor:
        """One token (B, E) as the head reads it."""
        return torch.cat([token] * self.repeats, 1) if self.repeats > 1 else token

    def head(self, read: Tensor) -> Tensor:
        """What is read of the tokens (B, E · repeats) to (B, out_dim)."""
        a = F.relu(self.out_layer_proj0(read))
        wide = F.dropout(F.relu(self.out_layer_proj1(a)), self.config.dropout.get("out", 0.0), self.training)
        return self.out_layer(self.out_layer_proj2(wide) + a)

    def explain(self, *features: Tensor) -> tuple[Tensor, ...]:
        """Raw features (B, ℓ_m, D_m) to the scores, those of the residual alone, and what each token contributed.

        Every token has an exact share of the adapter's output at the token that the head reads, and the head's mean
        gradient on the way from the residual to the adapted token makes shares contributions (B, ℓ_m, out_dim).
        """
        assert isinstance(self.adapter, Wander | FoldedWander)
        hidden = self.hidden(*features)
        residual = hidden[0][:, 0] if self.adapter.config.residual else torch.zeros_like(hidden[0][:, 0])
        shares = self.adapter.shares(hidden)
        first = self.out_layer_proj0.weight.unflatten(1, (self.repeats, -1)).sum(1)
        head = self.out_layer_proj0, self.out_layer_proj1, self.out_layer_proj2, self.out_layer
        gradient = mean_gradient(residual, shares[0].sum(1), first, *head)
        scores = [self.head(self._repeated(token)) for token in (self.adapter(hidden)[:, 0], residual)]
        return *scores, *(share @ gradient.mT for share in shares)

    def explanation(self, output: str) -> Tower | None:
        if not isinstance(self.adapter, Wander | FoldedWander):
            return None
        model = self.towers(output)[MAIN].signature
        (score,) = model.outputs
        residual = score.model_copy(update={"name": f"{RESIDUAL}{output}"})
        contributions = [
            TensorSpec(name=f"{CONTRIBUTIONS}{spec.name}", dtype=score.dtype, dims=(*spec.dims[:2], *score.item_dims))
            for spec in model.inputs
        ]
        signature = Signature(inputs=model.inputs, outputs=(score, residual, *contributions))
        return Tower(TowerModule(self, self.explain), signature)

    def towers(self, output: str) -> Mapping[str, Tower]:
        inputs = tuple(
            TensorSpec(name=name, dtype="float32", dims=(BATCH, length, features))
            for name, length, features in zip(
                self.config.modalities, self.config.lengths, self.config.feature_dims, strict=True
            )
        )
        outputs = (TensorSpec(name=output, dtype="float32", dims=(BATCH, self.out_layer.out_features)),)
        return {MAIN: Tower(TowerModule(self, self.forward), Signature(inputs=inputs, outputs=outputs))}

    def folds(self) -> list[Fold]:
        found = [
            Fold("encoder_scales", "√E into the projections, attention scales into q", self._fold_scales),
        ]
        if self.config.embed_dim // self.config.num_heads < NARROW_HEAD:
            found.append(
                Fold("tokens_last", "heads laid out along the tokens, biases of k and v moved", self._fold_layout)
            )
            if layers := self._bounded():
                apply = partial(self._fold_bounded, layers)
                found.append(Fold("bounded_scores", "no maximum where weights bound the scores", apply, wide=True))
        if isinstance(self.adapter, Wander):
            found.append(Fold("adapter", "ranks summed, only the token that the head reads", self._fold_adapter))
        if self.adapter is not None:
            found.append(Fold("repeated_token", "the head's first layer summed over the repeats", self._fold_repeats))
        return found

    def _fold_scales(self) -> None:
        for proj, encoder in self.branches():
            encoder.fold_scales_(proj)

    def _fold_layout(self) -> None:
        for _, encoder in self.branches():
            encoder.fold_tokens_last_()

    def _bounded(self) -> list[EncoderLayer]:
        """The layers whose scores are known, from the weights alone, to be small; but for those that are folded."""
        layers = [cast(EncoderLayer, layer) for _, encoder in self.branches() for layer in encoder.layers]
        return [
            layer
            for layer in layers
            if isinstance(layer.self_attn, SelfAttention)
            and score_bound(layer.self_attn, cast(nn.LayerNorm, layer.layer_norms[0])) <= BOUND
        ]

    @staticmethod
    def _fold_bounded(layers: list[EncoderLayer]) -> None:
        for layer in layers:
            norm = cast(nn.LayerNorm, layer.layer_norms[0])
            layer.self_attn = BoundedAttention(cast(SelfAttention, layer.self_attn), norm)

    def _fold_adapter(self) -> None:
        assert isinstance(self.adapter, Wander)
        self.adapter = self.adapter.fold(tokens=1)

    @torch.no_grad()
    def _fold_repeats(self) -> None:
        first = self.out_layer_proj0
        summed = nn.Linear(self.config.embed_dim, first.out_features).to(first.weight.dtype)
        summed.weight.copy_(first.weight.view(first.out_features, self.repeats, -1).sum(1))
        summed.bias.copy_(first.bias)
        self.out_layer_proj0 = summed
        self.repeats = 1

    def random_inputs(self, tower: str, rows: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Normal features, of the training mean and deviation if the host knows them."""
        assert tower in (MAIN, EXPLAIN)
        config = self.config
        arrays = {
            name: rng.standard_normal((rows, length, features)).astype(np.float32)
            for name, length, features in zip(config.modalities, config.lengths, config.feature_dims, strict=True)
        }
        if config.standardise:
            for name, mean, std in zip(config.modalities, self.feature_mean, self.feature_std, strict=True):
                arrays[name] = arrays[name] * std.float().numpy() + mean.float().numpy()
        return arrays


frozen = partial(nn.Parameter, requires_grad=False)

plugin = LateFusion
