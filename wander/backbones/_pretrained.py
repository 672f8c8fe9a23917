"""ViT and BERT as the transformers package has them, without their poolers, from sizes or from published weights.

The package is imported when a tower is made and not before, because that takes seconds.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from wander.backbones._attention import attend
from wander.errors import CheckpointError, ConfigError, MissingDependency
from wander.manifest import first_problem

ATTENTION = "wander_plain"
"""The name under which the package knows `attention`."""


class TowerSizes(BaseModel):
    """Sizes of a tower; its width is the host's. Activation is GELU (erf); there is no dropout, for it is frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    MODEL: ClassVar[str]
    NAMES: ClassVar[dict[str, str]] = {
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "intermediate": "intermediate_size",
        "layer_norm_eps": "layer_norm_eps",
    }
    FIXED: ClassVar[dict[str, Any]] = {"hidden_act": "gelu"}

    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    intermediate: int = Field(ge=1)
    layer_norm_eps: float = 1e-12

    @classmethod
    def of(cls, source: str) -> tuple[int, Self]:
        """Width and sizes of a published tower; `source` is a Hugging Face id or a local folder.

        Raises CheckpointError if it cannot be had, ConfigError if it is no model of this kind.
        """
        package = transformers()
        try:
            config = package.AutoConfig.from_pretrained(source, trust_remote_code=False)
        except (OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]  # the rest is advice on the package's own options
            raise CheckpointError(f"{source} is no local folder nor a model that can be fetched: {reason}") from error
        if config.model_type != cls.MODEL.lower():
            raise ConfigError(f"{source} is a model of type {config.model_type!r}, not {cls.MODEL.lower()!r}")
        for name, value in cls.FIXED.items():
            if (found := getattr(config, name)) != value:
                raise ConfigError(f"{source} has {name} {found!r}; a tower here has {value!r}")
        try:
            return config.hidden_size, cls(**{ours: getattr(config, theirs) for ours, theirs in cls.NAMES.items()})
        except ValidationError as error:
            raise ConfigError(f"{source}: {first_problem(error)}") from error

    def build(self, width: int) -> Any:
        """A tower with random weights."""
        return self._model()(self._config(width), add_pooling_layer=False)

    def load(self, width: int, source: str) -> Any:
        """A tower with published weights, in float32. Only safetensors files are read: no pickle, no code.

        Raises CheckpointError that names what is missing or mis-shaped, where the package would put random values.
        """
        try:
            tower, report = self._model().from_pretrained(
                source,
                config=self._config(width),
                add_pooling_layer=False,
                dtype=torch.float32,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{source} holds no safetensors file that can be read: {error}") from error
        problems = [f"{name} is missing" for name in sorted(report["missing_keys"])]
        problems += [
            f"{name} has shape {list(found)}, not {list(wanted)}"
            for name, found, wanted in sorted(report["mismatched_keys"])
        ]
        if problems:
            raise CheckpointError(f"{source}: {len(problems)} tensors do not fit: {'; '.join(problems)}")
        return tower

    def _model(self) -> Any:
        return getattr(transformers(), f"{self.MODEL}Model")

    def _config(self, width: int) -> Any:
        sizes = {theirs: getattr(self, ours) for ours, theirs in self.NAMES.items()}
        dropouts = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        options = {"hidden_size": width, "attn_implementation": ATTENTION, **self.FIXED, **dropouts, **sizes}
        return getattr(transformers(), f"{self.MODEL}Config")(**options)


class VitSizes(TowerSizes):
    """`image_size` and `patch_size` are those of squares; images have three channels."""

    MODEL: ClassVar[str] = "ViT"
    NAMES: ClassVar[dict[str, str]] = {
        **TowerSizes.NAMES,
        "image_size": "image_size",
        "patch_size": "patch_size",
    }
    FIXED: ClassVar[dict[str, Any]] = {**TowerSizes.FIXED, "num_channels": 3, "qkv_bias": True}

    image_size: int = Field(default=224, ge=1)
    patch_size: int = Field(default=16, ge=1)

    @property
    def tokens(self) -> int:
        """CLS and the patches."""
        return 1 + (self.image_size // self.patch_size) ** 2


class BertSizes(TowerSizes):
    """`vocab` tokens, at most `max_positions` of them in a text."""

    MODEL: ClassVar[str] = "Bert"
    NAMES: ClassVar[dict[str, str]] = {
        **TowerSizes.NAMES,
        "vocab": "vocab_size",
        "max_positions": "max_position_embeddings",
        "type_vocab": "type_vocab_size",
    }
    FIXED: ClassVar[dict[str, Any]] = {**TowerSizes.FIXED, "is_decoder": False, "add_cross_attention": False}

    vocab: int = Field(ge=2)
    max_positions: int = Field(default=512, ge=1)
    type_vocab: int = Field(default=2, ge=1)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention as the package wants it: (B, heads, T, head width) to (B, T, heads, head width); the mask is added.

    The package's own eager form of ViT rounds the softmax to float32 whatever the weights are, and its fused form
    leaves behind a scale and a check for empty rows in the exported graph.
    """
    query = query * scaling if scaling != 1.0 else query
    return attend(query, key, value, attention_mask).transpose(1, 2), None


@torch.no_grad()
def fold_scales_(tower: nn.Module) -> None:
    """Moves the scale of every query into the projection that makes it."""
    attentions: list[Any] = [module for module in tower.modules() if hasattr(module, "scaling")]
    for module in attentions:
        query = module.q_proj if hasattr(module, "q_proj") else module.query
        for parameter in query.parameters():
            parameter.mul_(module.scaling)
        module.scaling = 1.0


@cache
def transformers() -> ModuleType:
    """The package, which knows `attention` from then on. Raises MissingDependency if it is not installed."""
    try:
        import transformers as package
    except ImportError as error:
        raise MissingDependency("BERT and ViT need the transformers package: pip install 'wander[export]'") from error
    package.AttentionInterface.register(ATTENTION, attention)
    return package
