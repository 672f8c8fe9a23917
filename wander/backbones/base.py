"""What every host offers. Knows no files, no export and no task; only what the tensors are called."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from wander.adapters import Adapter, AdapterConfig
from wander.manifest import EXPLAIN
from wander.signature import Signature


class BackboneConfig(BaseModel):
    """Sizes and options of a frozen backbone. `kind` is the name of its file in this folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str


class HeadConfig(BaseModel):
    """Sizes and options of the head, which is trained and shipped together with the adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Tower:
    """One graph of a host: takes the tensors of `signature.inputs` in order, returns those of `signature.outputs`."""

    module: nn.Module
    signature: Signature


@dataclass(frozen=True)
class Fold:
    """An exact rewrite that removes work. `apply` changes the host in place; its towers give the same outputs.

    wide: values inside may need the range of float32, so that it is not made where the graphs are to be narrowed.
    """

    name: str
    description: str
    apply: Callable[[], None]
    wide: bool = False


class Host(nn.Module, ABC):
    """A frozen backbone with an adapter (or none) in its place, and the head.

    Parameter names are those of the authors' checkpoints, without their prefixes for the backbone.
    """

    Config: ClassVar[type[BackboneConfig]]
    Head: ClassVar[type[HeadConfig]] = HeadConfig
    config: Any  # an instance of `Config`; each family narrows it

    @classmethod
    @abstractmethod
    def build(cls, config: BackboneConfig, adapter: AdapterConfig | None, head: HeadConfig) -> Self:
        """A host of these sizes, freshly initialised. Raises ConfigError if the parts do not fit together."""

    @classmethod
    @abstractmethod
    def example(cls) -> tuple[BackboneConfig, AdapterConfig | None, HeadConfig]:
        """Small sizes that fit together, for the conformance suite and the documentation."""

    @property
    @abstractmethod
    def adapter_module(self) -> Adapter | None:
        """The adapter, if there is one."""

    @abstractmethod
    def is_adapted(self, name: str) -> bool:
        """Whether the entry `name` of the state dict belongs to adapter or head, rather than to the backbone."""

    @abstractmethod
    def towers(self, output: str) -> Mapping[str, Tower]:
        """The graphs by name. A host with a single graph calls it `model` and its result `output`."""

    def explanation(self, output: str) -> Tower | None:
        """The graph that explains what `model` answers, if this host can make one with its adapter and head.

        It takes what `model` takes. Beside `output` (B, C) it gives `residual.<output>` (B, C), the same of the
        adapter's residual alone; and for every input `contributions.<input>` (B, ℓ, C), which sum over its ℓ tokens,
        for each input by itself, to the difference of the two.
        """
        return None

    def graphs(self, output: str) -> dict[str, Tower]:
        """The towers, and `explain` where there is an explanation."""
        explanation = self.explanation(output)
        return {**self.towers(output), **({EXPLAIN: explanation} if explanation else {})}

    @abstractmethod
    def folds(self) -> list[Fold]:
        """The exact rewrites this host offers, in the order in which they may be applied."""

    @abstractmethod
    def random_inputs(self, tower: str, rows: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Plausible inputs of a tower: within the range that the backbone was trained on, as far as that is known."""

    def split_state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(adapter and head, backbone), each by name."""
        state = self.state_dict()
        return (
            {name: value for name, value in state.items() if self.is_adapted(name)},
            {name: value for name, value in state.items() if not self.is_adapted(name)},
        )


class TowerModule(nn.Module):
    """Presents a function of a host as a module of its own, as the exporter wants it."""

    def __init__(self, host: nn.Module, function: Callable[..., Tensor | tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.host = host
        self.function = function
        self.training = host.training

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.function(*inputs)


def run(tower: Tower, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Eager torch, without gradients: a batch of arrays in, arrays out. Floats are cast to the dtype of the weights."""
    dtype = next((p.dtype for p in tower.module.parameters() if p.is_floating_point()), torch.float32)
    inputs = []
    for spec in tower.signature.inputs:
        value = torch.from_numpy(np.require(arrays[spec.name], requirements=["C", "W"]))
        inputs.append(value.to(dtype) if value.is_floating_point() else value)
    with torch.inference_mode():
        result = tower.module(*inputs)
    results = result if isinstance(result, tuple) else (result,)
    names = [spec.name for spec in tower.signature.outputs]
    return {name: value.numpy() for name, value in zip(names, results, strict=True)}
