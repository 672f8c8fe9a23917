"""The adapters: small trained modules beside a frozen backbone. One kind per file."""

from wander.adapters.base import Adapter, AdapterConfig
from wander.registry import Registry

adapters: Registry[Adapter] = Registry("wander.adapters", Adapter)

__all__ = ["Adapter", "AdapterConfig", "adapters"]
