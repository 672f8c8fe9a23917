"""The encoder of BEiT-3: pre-norm layers with sub-LayerNorms, whose weights exist once a modality.

Parameter names and arithmetic are those of torchscale 0.2 as the MultiWay-Adapter authors run it. A pass is over images
or over texts. Left out: the joint pass over both, which retrieval never runs, and dropout, which acts in training only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from wander.adapters.multiway import EXTRACTOR, LAYER_NORM_EPS, Extractor, FeedForward, LayerParts, Modality
from wander.backbones._attention import attend

M = TypeVar("M", bound=nn.Module)
MODALITIES: tuple[Modality, ...] = ("image", "text")


class Multiway(nn.Module, Generic[M]):
    """A module for images and one for texts, under the authors' names `A` and `B`."""

    A: M
    B: M

    def __init__(self, image: M, text: M) -> None:
        super().__init__()
        self.A, self.B = image, text

    def __getitem__(self, modality: Modality) -> M:
        return self.A if modality == "image" else self.B

    def __setitem__(self, modality: Modality, module: M) -> None:
        setattr(self, "A" if modality == "image" else "B", module)


def both(make: Callable[[], M]) -> Multiway[M]:
    return Multiway(make(), make())


def norms(width: int) -> Multiway[nn.LayerNorm]:
    return both(lambda: nn.LayerNorm(width, eps=LAYER_NORM_EPS))


@torch.no_grad()
def bare(norm: nn.LayerNorm, *readers: nn.Linear) -> nn.LayerNorm:
    """Moves weight γ and bias β of a norm into all the matrices that read it; returns the norm without them.

    W(γ⊙n + β) + b = (W·diag γ) n + (Wβ + b). Nothing else may read the norm.
    """
    for reader in readers:
        shift = reader.weight @ norm.bias
        reader.bias = nn.Parameter(shift if reader.bias is None else reader.bias + shift)
        reader.weight.mul_(norm.weight)
    return nn.LayerNorm(norm.normalized_shape, norm.eps, elementwise_affine=False)


@torch.no_grad()
def joined(parts: list[nn.Linear], axis: int) -> nn.Linear:
    """One matrix of several: for one input and all their outputs (axis 0), or for all inputs and a sum (axis 1)."""
    weights: list[Tensor] = [part.weight for part in parts]
    biases: list[Tensor] = [part.bias for part in parts]
    weight = torch.cat(weights, axis)
    whole = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    whole.weight = nn.Parameter(weight)
    whole.bias = nn.Parameter(torch.cat(biases) if axis == 0 else torch.stack(biases).sum(0))
    return whole


class Attention(nn.Module):
    """Multi-head self-attention with a LayerNorm between the merged heads and the output projection."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (embed_dim // num_heads) ** -0.5
        self.k_proj = both(lambda: nn.Linear(embed_dim, embed_dim))
        self.v_proj = both(lambda: nn.Linear(embed_dim, embed_dim))
        self.q_proj = both(lambda: nn.Linear(embed_dim, embed_dim))
        self.out_proj = both(lambda: nn.Linear(embed_dim, embed_dim))
        self.inner_attn_ln = norms(embed_dim)
        self.qkv_proj: Multiway[nn.Linear] | None = None

    def forward(self, y: Tensor, modality: Modality, mask: Tensor | None, read_out: bool) -> Tensor:
        """Normed y (B, T, E) to (B, T, E), or to (B, 1, E) for token 0 alone if `read_out`.

        mask: (B, 1, 1, T), added to the scores; 0, or -inf at padding.
        """
        q, k, v = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in self._qkv(y, modality, read_out))
        if self.scale != 1.0:
            q = q * self.scale
        merged = attend(q, k, v, mask).transpose(1, 2).flatten(2)
        return self.out_proj[modality](self.inner_attn_ln[modality](merged))

    def _qkv(self, y: Tensor, modality: Modality, read_out: bool) -> tuple[Tensor, ...]:
        if self.qkv_proj is not None:
            return self.qkv_proj[modality](y).chunk(3, 2)
        asked = y[:, :1] if read_out else y
        return self.q_proj[modality](asked), self.k_proj[modality](y), self.v_proj[modality](y)

    @torch.no_grad()
    def fold_scale_(self) -> None:
        for modality in MODALITIES:
            self.q_proj[modality].weight.mul_(self.scale)
            self.q_proj[modality].bias.mul_(self.scale)
        self.scale = 1.0

    def pack_(self) -> None:
        """q, k and v from one matrix."""
        packed = [joined([self.q_proj[m], self.k_proj[m], self.v_proj[m]], 0) for m in MODALITIES]
        self.qkv_proj = Multiway(*packed)
        del self.q_proj, self.k_proj, self.v_proj


class AdaptedFeedForward(nn.Module):
    """FFN and extractor with one last matrix: [W2 | up] [LN(GELU(fc1 z)); ReLU(down x)]."""

    def __init__(self, ffn: FeedForward, extractor: Extractor) -> None:
        super().__init__()
        self.fc1, self.ffn_layernorm = ffn.fc1, ffn.ffn_layernorm
        self.down_proj = extractor.down_proj
        self.fc2 = joined([ffn.fc2, extractor.up_proj], 1)
        self.normed = extractor.layernorm == "in"

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x (B, T, E) and z, the same without mean and deviation, to what FFN and extractor add to x."""
        bottleneck = torch.relu(self.down_proj(z if self.normed else x))
        hidden = self.ffn_layernorm(nn.functional.gelu(self.fc1(z)))
        return self.fc2(torch.cat([hidden, bottleneck], 2))


class Layer(nn.Module):
    """x += attention(LN x); x += FFN(LN x) + extractor(x); x += enhancer(x).

    The extractor reads x after the attention, un-normed; the enhancer reads x un-normed too. `read_out`: the layer
    gives token 0 alone; all tokens are keys and values still.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, ffn_dim: int, parts: LayerParts | None, extractors_run: bool
    ) -> None:
        super().__init__()
        self.self_attn = Attention(embed_dim, num_heads)
        self.self_attn_layer_norm = norms(embed_dim)
        self.final_layer_norm = norms(embed_dim)
        self.ffn: Multiway[nn.Module] = Multiway(FeedForward(embed_dim, ffn_dim), FeedForward(embed_dim, ffn_dim))
        self.adaptmlp_text = parts.adaptmlp_text if parts else None
        self.adaptmlp_vision = parts.adaptmlp_vision if parts else None
        self.enhancemlp = parts.enhancemlp if parts else None
        self.extractors_run = extractors_run
        self.read_out = False

    def extractor(self, modality: Modality) -> Extractor | None:
        """The one that a pass over this modality runs, if any."""
        return getattr(self, EXTRACTOR[modality]) if self.extractors_run else None

    def forward(self, x: Tensor, modality: Modality, mask: Tensor | None) -> Tensor:
        """(B, T, E) to (B, T, E), or to (B, 1, E) if `read_out`; mask as for the attention."""
        y = self.self_attn_layer_norm[modality](x)
        x = (x[:, :1] if self.read_out else x) + self.self_attn(y, modality, mask, self.read_out)
        z = self.final_layer_norm[modality](x)
        ffn, extractor = self.ffn[modality], self.extractor(modality)
        if isinstance(ffn, AdaptedFeedForward):
            x = x + ffn(x, z)
        else:
            x = x + ffn(z) if extractor is None else x + ffn(z) + extractor(x)
        return x if self.enhancemlp is None else x + self.enhancemlp(x)

    def fold_scales_(self) -> None:
        self.self_attn.fold_scale_()
        for modality in MODALITIES:
            if (extractor := self.extractor(modality)) is not None:
                extractor.fold_scale_()

    def fold_norms_(self) -> None:
        """The norm of an extractor's output (`out`) stays: what reads it is the residual stream, which is no matrix."""
        attention = self.self_attn
        for m in MODALITIES:
            readers = (attention.q_proj[m], attention.k_proj[m], attention.v_proj[m])
            self.self_attn_layer_norm[m] = bare(self.self_attn_layer_norm[m], *readers)
            attention.inner_attn_ln[m] = bare(attention.inner_attn_ln[m], attention.out_proj[m])
            ffn, extractor = cast(FeedForward, self.ffn[m]), self.extractor(m)
            self.final_layer_norm[m] = bare(self.final_layer_norm[m], ffn.fc1)
            _fold_sub_norm(ffn)
            if extractor is not None and extractor.layernorm == "in":
                norm = cast(nn.LayerNorm, extractor.adapter_layer_norm_before)
                extractor.adapter_layer_norm_before = bare(norm, extractor.down_proj)
        if self.enhancemlp is not None:
            _fold_sub_norm(self.enhancemlp)

    def merge_extractors_(self) -> None:
        """Needs `fold_scales_` and, for norms before the bottleneck, `fold_norms_`, which leaves one norm for both."""
        for modality in MODALITIES:
            if (extractor := self.extractor(modality)) is not None:
                self.ffn[modality] = AdaptedFeedForward(cast(FeedForward, self.ffn[modality]), extractor)
        self.adaptmlp_text = self.adaptmlp_vision = None


def _fold_sub_norm(ffn: FeedForward) -> None:
    if isinstance(ffn.ffn_layernorm, nn.LayerNorm):
        ffn.ffn_layernorm = bare(ffn.ffn_layernorm, ffn.fc2)


class Encoder(nn.Module):
    """Positions, the layers, and a last LayerNorm on token 0, which is all that retrieval reads."""

    def __init__(self, positions: Multiway[nn.Embedding], layers: list[Layer]) -> None:
        super().__init__()
        self.embed_positions = positions
        self.layers = nn.ModuleList(layers)
        self.layer_norm = norms(positions.A.embedding_dim)

    def __iter__(self) -> Iterator[Layer]:
        return (cast(Layer, layer) for layer in self.layers)

    def forward(self, x: Tensor, modality: Modality, mask: Tensor | None) -> Tensor:
        """Embedded tokens (B, T, E) to (B, E). Positions begin at row 2 of their table, as in fairseq."""
        rows = torch.arange(2, x.shape[1] + 2, device=x.device)
        x = x + self.embed_positions[modality](rows)
        for layer in self:
            x = layer(x, modality, mask)
        return self.layer_norm[modality](x[:, 0])
