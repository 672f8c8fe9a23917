"""The protocols: each translates between HTTP and the service, and nothing more. One protocol per file."""

from serving.protocols.base import Protocol
from wander.registry import Registry

protocols: Registry[Protocol] = Registry("serving.protocols", Protocol)

__all__ = ["Protocol", "protocols"]
