"""The adapter of a host whose modalities are sequences of one width, checked against the host's sizes."""

from __future__ import annotations

from collections.abc import Sequence

from wander.adapters import Adapter, AdapterConfig, adapters
from wander.adapters._fusion import FusionConfig
from wander.adapters.wander import WanderConfig
from wander.errors import ConfigError


def fitting(
    adapter: AdapterConfig | None, embed_dim: int, lengths: Sequence[int], *, readout: bool = False
) -> Adapter | None:
    """A fresh adapter of these sizes, or None. Raises ConfigError if it cannot read and write the host's tokens.

    `readout`: whether the host leaves open how it reads them, so that the adapter may declare it.
    """
    if adapter is None:
        return None
    if not isinstance(adapter, FusionConfig):
        raise ConfigError(f"this host takes an adapter that fuses sequences, not {adapter.kind!r}")
    if (adapter.embed_dim, adapter.width, adapter.lengths) != (embed_dim, embed_dim, tuple(lengths)):
        raise ConfigError(
            f"the adapter (embed_dim {adapter.embed_dim} to {adapter.width}, lengths {list(adapter.lengths)}) does "
            f"not fit the backbone (embed_dim {embed_dim}, lengths {list(lengths)})"
        )
    if not readout:
        refuse_readout(adapter)
    return adapters.get(adapter.kind).build(adapter)


def refuse_readout(adapter: FusionConfig) -> None:
    """Raises ConfigError for an adapter that declares a read-out, in a host that has only one."""
    if isinstance(adapter, WanderConfig) and adapter.readout is not None:
        raise ConfigError(f"readout {adapter.readout!r} is for hosts of several experts (mmt); leave it out here")
