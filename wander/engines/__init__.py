"""The engines: what runs a graph. One engine per file; no torch."""

from wander.engines.base import Engine, EngineOptions, Session
from wander.registry import Registry

engines: Registry[Engine] = Registry("wander.engines", Engine)

DEFAULT_ENGINE = "ort"

__all__ = ["DEFAULT_ENGINE", "Engine", "EngineOptions", "Session", "engines"]
