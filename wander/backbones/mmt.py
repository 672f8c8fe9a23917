"""MMT for text-video retrieval: experts watch a video, a transformer joins them, and a text is compared with each.

Two towers. A text becomes one vector t_m an expert and weights w that sum to 1, a video one vector v_m an expert and a
note of which experts it has. All t_m and v_m have length 1. Their similarity is Σ_m w_m⟨t_m, v_m⟩: one inner product of
concat(w_m t_m), which the text tower gives, with concat(v_m), which the video tower gives. If missing experts shall not
count it is that sum over those there are, divided by their weights; `wander.tasks.text_video` does both.

Wander's authors released no code for this host, so how their adapter is read is declared: `readout` of its
configuration. It fuses the outputs of the video transformer, h_m being the token that stands for expert m (AGG) and its
feature tokens, with or without a feature in them (the adapter knows no masks). Then v_m is, before it is normalised:

    experts      AGG_m + Y[m]   each expert has a fused token of its own; needs as many tokens as experts. The default.
    shared       AGG_m + Y[0]   one fused token is added to all
    first_token  Y[0]           for every expert: what the released hosts do with their several inputs to the head

In the first two Y is what is fused without the adapter's residual, whose place the experts' own AGG tokens take; so an
adapter that adds nothing leaves MMT as it is. In the third the residual of Y[0] is the AGG token of the first expert.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from wander.adapters import Adapter, AdapterConfig
from wander.adapters.wander import Readout, Wander, WanderConfig
from wander.backbones._fitting import fitting
from wander.backbones._mmt_sizes import MMTConfig, MMTHead
from wander.backbones._pretrained import BertSizes, fold_scales_
from wander.backbones._text_experts import GatedUnit, StackedUnits, token_zero
from wander.backbones._video_transformer import MASKED, VideoTransformer
from wander.backbones.base import BackboneConfig, Fold, HeadConfig, Host, Tower, TowerModule
from wander.errors import ConfigError
from wander.signature import BATCH, Signature, TensorSpec

DEFAULT_READOUT: Readout = "experts"
TOKENS = "tokens"


class MMT(Host):
    """Frozen: `video_dim_reduce.*`, `vid_bert.*`, `txt_bert.*`, `text_GU.*`; trained: `adapter.*`, `moe_fc_txt.*`.

    With `units` in the head `text_GU.*` is trained too. Poolers, which nothing reads, are left out.
    """

    Config = MMTConfig
    Head = MMTHead
    config: MMTConfig

    def __init__(self, config: MMTConfig, adapter: Adapter | None, head: MMTHead) -> None:
        super().__init__()
        self.config = config
        self.head = head
        width, names = config.embed_dim, config.experts
        self.video_dim_reduce = nn.ModuleDict(
            {
                name: nn.ModuleDict({"fc": nn.Linear(n, width)})
                for name, n in zip(names, config.feature_dims, strict=True)
            }
        )
        self.vid_bert = VideoTransformer(
            width, config.num_heads, config.layers, config.ffn_dim, config.positions, config.type_vocab, config.dropout
        )
        self.txt_bert: Any = config.text.build(config.text_width)  # a BertModel of the transformers package
        self.text_GU = nn.ModuleDict({name: GatedUnit(config.text_width, width) for name in names})
        self.moe_fc_txt = nn.ModuleDict({name: nn.Linear(config.text_width, 1) for name in names})
        self.adapter: nn.Module | None = adapter
        self.last_text_layer: Any = None
        self.stacked: StackedUnits | None = None
        self.types: Tensor
        self.register_buffer("types", torch.tensor(config.token_types), persistent=False)

    @classmethod
    def build(cls, config: BackboneConfig, adapter: AdapterConfig | None, head: HeadConfig) -> Self:
        assert isinstance(config, MMTConfig)
        assert isinstance(head, MMTHead)
        if adapter is None:
            return cls(config, None, head)
        if not isinstance(adapter, WanderConfig):
            raise ConfigError(f"the MMT host takes Wander over its experts, not an adapter of kind {adapter.kind!r}")
        declared = adapter.model_copy(update={"readout": adapter.readout or DEFAULT_READOUT})
        _check_readout(declared, len(config.experts))
        return cls(config, fitting(declared, config.embed_dim, config.lengths, readout=True), head)

    @classmethod
    def example(cls) -> tuple[BackboneConfig, AdapterConfig | None, HeadConfig]:
        config = MMTConfig(
            experts=("rgb", "speech"),
            feature_dims=(5, 3),
            token_types=(1, 3),
            embed_dim=8,
            num_heads=2,
            layers=2,
            ffn_dim=12,
            positions=6,
            type_vocab=4,
            tokens=3,
            text=BertSizes(layers=2, heads=2, intermediate=12, vocab=20, max_positions=10),
            text_width=6,
        )
        sizes = WanderConfig(
            embed_dim=8, lengths=config.lengths, down_dim=3, tokens=3, rank_h=2, rank_t=2, residual=False
        )
        return config, sizes, MMTHead()

    @property
    def adapter_module(self) -> Adapter | None:
        return self.adapter if isinstance(self.adapter, Adapter) else None

    @property
    def readout(self) -> Readout | None:
        """How the adapter's tokens are read; None without an adapter."""
        return None if self.adapter is None else cast(WanderConfig, cast(Any, self.adapter).config).readout

    def is_adapted(self, name: str) -> bool:
        return name.startswith(("adapter.", "moe_fc_txt.")) or (self.head.units and name.startswith("text_GU."))

    def tokens(self, features: tuple[Tensor, ...], maxima: tuple[Tensor, ...]) -> Tensor:
        """Raw features (B, T, D_m) and their maxima (B, D_m) to (B, M, 1 + T, E): AGG and the tokens of each expert."""
        raw = (torch.cat([m[:, None], x], 1) for m, x in zip(maxima, features, strict=True))
        reduce = (cast(Any, self.video_dim_reduce[name])["fc"] for name in self.config.experts)
        return torch.stack([F.normalize(fc(x), dim=-1) for fc, x in zip(reduce, raw, strict=True)], 1)

    def hidden(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """What `tokens` gives, through the video transformer: (B, M, 1 + T, E), or the AGG tokens alone (B, M, 1, E).

        Args:
            positions: int64 (B, M, T), rows of the position table; what is beyond its ends is moved to them.
            mask: int64 (B, M, T), 0 for a token that is not there. An expert without any is missing.
        """
        places = F.pad(positions.clamp(0, self.config.positions - 1), (1, 0))  # AGG has position 0, "none"
        present = (mask != 0).to(mask.dtype)
        there = torch.cat([present.amax(2, keepdim=True), present], 2)
        types = self.types[:, None].expand(-1, tokens.shape[2]).flatten()
        # In front of all, the CLS token: a feature of zeros, type and position 0, always there.
        sequence = F.pad(tokens.flatten(1, 2), (0, 0, 1, 0))
        places, types = F.pad(places.flatten(1), (1, 0)), F.pad(types, (1, 0))
        there = F.pad(there.flatten(1), (1, 0), value=1)
        x = self.vid_bert(sequence, places, types, there)
        whole = x.shape[1] == sequence.shape[1]
        return (x[:, 1:] if whole else x).unflatten(1, (len(self.config.experts), -1))

    def vectors(self, hidden: Tensor) -> Tensor:
        """What `hidden` gives to the experts' vectors (B, M, E), of length 1."""
        read = hidden[:, :, 0]
        if self.adapter is not None:
            fused = self.adapter(hidden.unbind(1))
            if self.readout == "experts":
                read = read + fused[:, : read.shape[1]]
            elif self.readout == "shared":
                read = read + fused[:, :1]
            else:
                read = fused[:, :1].expand_as(read)
        return F.normalize(read, dim=-1)

    def video(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Arguments: the features of each expert, then the maxima of each, then positions and mask.

        Returns concat(v_m) (B, M·E) and which experts are there (B, M), 1 or 0.
        """
        number = len(self.config.experts)
        *_, positions, mask = inputs
        tokens = self.tokens(inputs[:number], inputs[number : 2 * number])
        vectors = self.vectors(self.hidden(tokens, positions, mask))
        return vectors.flatten(1), (mask != 0).to(vectors.dtype).amax(2)

    def text_state(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 (B, L) both, the mask 0 at padding, to BERT's token 0 (B, text width)."""
        dtype = self.txt_bert.embeddings.word_embeddings.weight.dtype
        padding = (attention_mask == 0).to(dtype)[:, None, None, :] * MASKED
        types = input_ids.new_zeros(1, input_ids.shape[1])
        states = self.txt_bert(input_ids, attention_mask=padding, token_type_ids=types).last_hidden_state
        return states[:, 0] if self.last_text_layer is None else token_zero(self.last_text_layer, states, padding)

    def text_vectors(self, state: Tensor) -> Tensor:
        """BERT's token 0 to the text's vectors t_m (B, M, E), of length 1."""
        if self.stacked is not None:
            return self.stacked(state)
        return torch.stack([self.text_GU[name](state) for name in self.config.experts], 1)

    def text_weights(self, state: Tensor) -> Tensor:
        """BERT's token 0 to the weights of the experts (B, M), which sum to 1."""
        return torch.softmax(torch.cat([self.moe_fc_txt[name](state) for name in self.config.experts], 1), 1)

    def text(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Arguments as `text_state`. Returns concat(w_m t_m) (B, M·E) and w (B, M)."""
        state = self.text_state(input_ids, attention_mask)
        weights = self.text_weights(state)
        return (self.text_vectors(state) * weights[:, :, None]).flatten(1), weights

    def towers(self, output: str) -> Mapping[str, Tower]:
        """`text` and `video`; they name their results themselves."""
        config, number = self.config, len(self.config.experts)
        named = list(zip(config.experts, config.feature_dims, strict=True))
        vector = (BATCH, number * config.embed_dim)

        def spec(name: str, dtype: Literal["float32", "int64"], *dims: int | str) -> TensorSpec:
            return TensorSpec(name=name, dtype=dtype, dims=(BATCH, *dims))

        video = Signature(
            inputs=(
                *(spec(f"features_{name}", "float32", config.tokens, width) for name, width in named),
                *(spec(f"maximum_{name}", "float32", width) for name, width in named),
                spec("positions", "int64", number, config.tokens),
                spec("mask", "int64", number, config.tokens),
            ),
            outputs=(spec("video_embedding", "float32", vector[1]), spec("availability", "float32", number)),
        )
        text = Signature(
            inputs=(spec("input_ids", "int64", TOKENS), spec("attention_mask", "int64", TOKENS)),
            outputs=(spec("text_embedding", "float32", vector[1]), spec("text_weights", "float32", number)),
        )
        return {"text": Tower(TowerModule(self, self.text), text), "video": Tower(TowerModule(self, self.video), video)}

    def folds(self) -> list[Fold]:
        """The norms of a post-norm transformer stay: the residual stream reads them besides the matrices.

        The last video layer can be cut to the AGG tokens where these are all that is read: without an adapter, or with
        one that fuses first tokens. Any other reads every token of every expert.
        """
        found = [
            Fold("attention_scales", "attention scales into q", self._fold_scales),
            Fold("batch_norms", "norms of the gated units, with their statistics, into the gates", self._fold_norms),
            Fold("stacked_units", "the gated units of all experts as two products", self._fold_units),
            Fold("text_read_out", "of BERT's last layer only token 0 is computed", self._fold_text),
        ]
        if self.adapter is None or cast(WanderConfig, cast(Any, self.adapter).config).first_token_only:
            found.append(Fold("video_read_out", "of the last video layer only the AGG tokens", self._fold_video))
        if isinstance(self.adapter, Wander):
            found.append(Fold("adapter", "ranks summed, only the tokens that are read", self._fold_adapter))
        return found

    def _fold_scales(self) -> None:
        fold_scales_(self.vid_bert)
        fold_scales_(self.txt_bert)

    def _units(self) -> list[GatedUnit]:
        return [cast(GatedUnit, self.text_GU[name]) for name in self.config.experts]

    def _fold_norms(self) -> None:
        for unit in self._units():
            unit.cg.fold_norm_()

    def _fold_units(self) -> None:
        self.stacked = StackedUnits(self._units())
        self.text_GU = nn.ModuleDict()

    def _fold_text(self) -> None:
        layers = self.txt_bert.encoder.layer
        self.last_text_layer = layers[-1]
        self.txt_bert.encoder.layer = layers[:-1]

    def _fold_video(self) -> None:
        self.vid_bert.keep_(slice(1, None, self.config.tokens + 1))

    def _fold_adapter(self) -> None:
        assert isinstance(self.adapter, Wander)
        self.adapter = self.adapter.fold(tokens=len(self.config.experts) if self.readout == "experts" else 1)

    def random_inputs(self, tower: str, rows: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Texts of different lengths; videos that lack experts, with normal features of any number up to T."""
        config = self.config
        if tower == "text":
            length = min(16, config.text.max_positions)
            mask = np.arange(length) < rng.integers(min(2, length), length + 1, (rows, 1))
            ids = rng.integers(1, config.text.vocab, (rows, length)) * mask
            return {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
        assert tower == "video"
        arrays: dict[str, NDArray[Any]] = {}
        shape = (rows, len(config.experts))
        counts = rng.integers(1, config.tokens + 1, shape) * (rng.random(shape) > 0.2)
        mask = np.arange(config.tokens) < counts[..., None]
        for place, (name, width) in enumerate(zip(config.experts, config.feature_dims, strict=True)):
            values = rng.standard_normal((rows, config.tokens, width)) * mask[:, place, :, None]
            highest = np.where(mask[:, place, :, None], values, -np.inf).max(1)
            arrays[f"features_{name}"] = values.astype(np.float32)
            arrays[f"maximum_{name}"] = np.where(counts[:, place, None] > 0, highest, 0).astype(np.float32)
        positions = np.where(mask, rng.integers(0, config.positions, mask.shape), 1)
        return {**arrays, "positions": positions, "mask": mask.astype(np.int64)}


def _check_readout(adapter: WanderConfig, experts: int) -> None:
    """Raises ConfigError for an adapter whose tokens cannot be read as it declares."""
    if adapter.readout == "experts" and adapter.tokens < experts:
        raise ConfigError(f"readout 'experts' needs a token for each of {experts} experts, not {adapter.tokens} tokens")
    if adapter.residual != (adapter.readout == "first_token"):
        needed = "the adapter's residual" if adapter.readout == "first_token" else "residual false: each expert's own"
        raise ConfigError(f"readout {adapter.readout!r} needs {needed}")


plugin = MMT
