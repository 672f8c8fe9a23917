"""The hosts: a frozen backbone, the place where an adapter goes, and the head that reads it. One family per file."""

from wander.backbones.base import BackboneConfig, Fold, Host, Tower
from wander.registry import Registry

hosts: Registry[Host] = Registry("wander.backbones", Host)

__all__ = ["BackboneConfig", "Fold", "Host", "Tower", "hosts"]
