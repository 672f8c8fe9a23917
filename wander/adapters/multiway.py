"""MultiWay-Adapter (MWA): a bottleneck and a feed-forward block inside every layer of a multiway transformer.

The New Knowledge Extractor is a bottleneck beside the FFN, one for images and one for texts; the Alignment Enhancer is
an FFN after it, whose weights both modalities share. Their parts live inside the layers of the backbone, which says
where they read; here is what they compute. Facts are those of the released code, on torchscale 0.2.
"""

from __future__ import annotations

from typing import Literal, Self, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from wander.adapters.base import Adapter, AdapterConfig

Modality = Literal["image", "text"]

EXTRACTOR: dict[Modality, Literal["adaptmlp_text", "adaptmlp_vision"]] = {
    "image": "adaptmlp_text",
    "text": "adaptmlp_vision",
}
"""Which extractor a pass runs. The names are the wrong way round in the released code: a pass over images runs (and so
trains) `adaptmlp_text`, a pass over texts `adaptmlp_vision`. Checkpoints keep these names, so we do. This table is the
only place that knows."""

LAYER_NORM_EPS = 1e-5


class MultiWayConfig(AdapterConfig):
    """Sizes and options; in brackets what the released command line calls them.

    Attributes:
        embed_dim: E, width of the backbone (`d_model`).
        layers: number of layers; each gets its own parts.
        extractor_width: of the bottleneck (`ffn_num`).
        scalar: factor of what an extractor adds (`ffn_adapter_scalar`), or `learnable`: one trained number a part.
        layernorm: where an extractor has a LayerNorm, if anywhere (`ffn_adapter_layernorm_option`).
        mode: which extractors exist, by their names in the checkpoint (`ffn_mode`): `text` is `adaptmlp_text` alone.
        option: `sequential` was meant to follow the FFN, but the released code then runs no extractor at all.
        enhancer_width: of the enhancer's hidden layer, or None if there is no enhancer (`ffn_enhance`). The released
            code has 4E, the paper's poster a bottleneck.
        enhancer_norm: whether the enhancer has a LayerNorm over its hidden layer; the released code has.
    """

    kind: Literal["multiway"] = "multiway"
    embed_dim: int = Field(ge=1)
    layers: int = Field(ge=1)
    extractor_width: int = Field(default=64, ge=1)
    scalar: float | Literal["learnable"] = 0.1
    layernorm: Literal["none", "in", "out"] = "none"
    mode: Literal["both", "text", "vision"] = "both"
    option: Literal["parallel", "sequential"] = "parallel"
    enhancer_width: int | None = Field(default=None, ge=1)
    enhancer_norm: bool = True

    @property
    def extractors(self) -> tuple[str, ...]:
        """Names of the extractors in every layer."""
        return ("adaptmlp_text", "adaptmlp_vision") if self.mode == "both" else (f"adaptmlp_{self.mode}",)


class FeedForward(nn.Module):
    """fc2(LN(GELU(fc1 z))): the enhancer, and the FFN of BEiT-3 itself. GELU is the erf form, LN is over the width."""

    def __init__(self, embed_dim: int, width: int, norm: bool = True) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, width)
        self.ffn_layernorm: nn.Module = nn.LayerNorm(width, eps=LAYER_NORM_EPS) if norm else nn.Identity()
        self.fc2 = nn.Linear(width, embed_dim)

    def forward(self, z: Tensor) -> Tensor:
        """(B, T, E) to (B, T, E)."""
        return self.fc2(self.ffn_layernorm(F.gelu(self.fc1(z))))


class Extractor(nn.Module):
    """scalar · up(ReLU(down x)), with a LayerNorm before down (`in`), after the scalar (`out`), or none."""

    scale: nn.Parameter | float
    adapter_layer_norm_before: nn.Module

    def __init__(self, config: MultiWayConfig) -> None:
        super().__init__()
        self.layernorm = config.layernorm
        self.down_proj = nn.Linear(config.embed_dim, config.extractor_width)
        self.up_proj = nn.Linear(config.extractor_width, config.embed_dim)
        if config.layernorm != "none":
            self.adapter_layer_norm_before = nn.LayerNorm(config.embed_dim, eps=LAYER_NORM_EPS)
        self.scale = nn.Parameter(torch.ones(1)) if config.scalar == "learnable" else config.scalar
        nn.init.zeros_(self.down_proj.bias)
        nn.init.zeros_(self.up_proj.weight)
        nn.init.zeros_(self.up_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, E), the residual stream as it is, to what is added to it (B, T, E)."""
        if self.layernorm == "in":
            x = self.adapter_layer_norm_before(x)
        y = self.up_proj(F.relu(self.down_proj(x)))
        if not isinstance(self.scale, float) or self.scale != 1.0:
            y = y * self.scale
        return self.adapter_layer_norm_before(y) if self.layernorm == "out" else y

    @torch.no_grad()
    def fold_scale_(self) -> None:
        """Moves the scalar, fixed or learned, into the up-projection. Exact with any LayerNorm: it comes after."""
        self.up_proj.weight.mul_(self.scale)
        self.up_proj.bias.mul_(self.scale)
        del self.scale
        self.scale = 1.0

    @torch.no_grad()
    def zero_(self) -> None:
        """Makes it add nothing."""
        last = self.adapter_layer_norm_before if self.layernorm == "out" else self.up_proj
        for parameter in last.parameters():
            parameter.zero_()

    def adds_nothing(self) -> bool:
        """Whether its weights are such that it adds exactly zero, as they are before training."""
        silent = self.scale == 0 or not (self.up_proj.weight.any() or self.up_proj.bias.any())
        if self.layernorm == "out":
            norm = cast(nn.LayerNorm, self.adapter_layer_norm_before)
            silent = not norm.bias.any() and (silent or not norm.weight.any())
        return bool(silent)


class LayerParts(nn.Module):
    """The adapter's parts in one layer, under the authors' names; None where there is none."""

    def __init__(self, config: MultiWayConfig) -> None:
        super().__init__()
        extractors = {name: Extractor(config) for name in config.extractors}
        self.adaptmlp_text = extractors.get("adaptmlp_text")
        self.adaptmlp_vision = extractors.get("adaptmlp_vision")
        width = config.enhancer_width
        self.enhancemlp = FeedForward(config.embed_dim, width, config.enhancer_norm) if width else None

    def extractors(self) -> list[Extractor]:
        """Those that exist."""
        return [part for part in (self.adaptmlp_text, self.adaptmlp_vision) if part is not None]


class MultiWay(Adapter):
    """All parts of all layers. Parameters: `layers.{i}.adaptmlp_text.*`, `.adaptmlp_vision.*`, `.enhancemlp.*`.

    An extractor has `down_proj`, `up_proj`, and if so configured `adapter_layer_norm_before` and `scale` (1); the
    enhancer has `fc1`, `ffn_layernorm`, `fc2`.
    """

    Config = MultiWayConfig
    config: MultiWayConfig

    def __init__(self, config: MultiWayConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(LayerParts(config) for _ in range(config.layers))

    @classmethod
    def build(cls, config: AdapterConfig) -> Self:
        assert isinstance(config, MultiWayConfig)
        return cls(config)

    @classmethod
    def example_config(cls) -> MultiWayConfig:
        return MultiWayConfig(embed_dim=8, layers=2, extractor_width=3, scalar="learnable", enhancer_width=12)

    @classmethod
    def parameter_count(cls, config: AdapterConfig) -> int:
        """A layer: extractors·(2·E·w + w + E, LN 2·E, learned scalar 1) + enhancer 2·E·m + m + E (LN 2·m)."""
        assert isinstance(config, MultiWayConfig)
        width, wide = config.embed_dim, config.extractor_width
        extractor = 2 * width * wide + wide + width
        extractor += (2 * width if config.layernorm != "none" else 0) + (config.scalar == "learnable")
        m = config.enhancer_width
        enhancer = 2 * width * m + m + width + (2 * m if config.enhancer_norm else 0) if m else 0
        return config.layers * (len(config.extractors) * extractor + enhancer)

    @classmethod
    def flops(cls, config: AdapterConfig) -> int:
        """Of one token through all layers (how many tokens a sample has is the backbone's): layers·(4·E·w + 4·E·m).

        A token meets one extractor, that of its modality; none with the option `sequential`.
        """
        assert isinstance(config, MultiWayConfig)
        extractor = config.extractor_width if config.option == "parallel" else 0
        return config.layers * 4 * config.embed_dim * (extractor + (config.enhancer_width or 0))

    def parts(self) -> list[LayerParts]:
        """The parts of each layer."""
        return [cast(LayerParts, part) for part in self.layers]

    @torch.no_grad()
    def zero_(self) -> None:
        for parts in self.parts():
            for extractor in parts.extractors():
                extractor.zero_()
            if parts.enhancemlp is not None:
                parts.enhancemlp.fc2.weight.zero_()
                parts.enhancemlp.fc2.bias.zero_()

    def warnings(self) -> list[str]:
        if self.config.option == "sequential":
            return ["option sequential: the released code runs no extractor then, so their weights are not used"]
        found = []
        for modality, name in EXTRACTOR.items():
            extractors: list[Extractor | None] = [getattr(parts, name) for parts in self.parts()]
            if all(extractor is None for extractor in extractors):
                found.append(f"mode {self.config.mode}: there is no {name}, which is what {modality}s would run")
            elif all(extractor is not None and extractor.adds_nothing() for extractor in extractors):
                found.append(f"{name} adds nothing in any layer: {modality}s are embedded as if it were not there")
        return found


plugin = MultiWay
