"""Plug-ins by discovery: one module of a package is one plug-in, and its file name is the plug-in's name.

A plug-in module sets `plugin` to its class. Modules whose name starts with an underscore, `base` and `cli` are none,
nor are packages, which may hold plug-ins of another kind.
A module is imported when its plug-in is asked for, not before: an engine that nobody uses need not be installed.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Generic, TypeVar

from wander.errors import ConfigError

T = TypeVar("T")

NOT_PLUGINS = ("base", "cli")


class Registry(Generic[T]):
    """The plug-ins of one package.

    Args:
        package: dotted name of the package (`"wander.tasks"`).
        base: the class that every plug-in of the package derives from.
    """

    def __init__(self, package: str, base: type[T]) -> None:
        self.package = package
        self.base = base

    def names(self) -> list[str]:
        """Names of all plug-ins, sorted; imports none of them."""
        found = pkgutil.iter_modules(importlib.import_module(self.package).__path__)
        return sorted(m.name for m in found if not (m.ispkg or m.name in NOT_PLUGINS or m.name.startswith("_")))

    def get(self, name: str) -> type[T]:
        """The plug-in called `name` (a hyphen reads as an underscore). Raises ConfigError if there is none."""
        module_name = name.replace("-", "_")
        if module_name not in self.names():
            kind = self.package.rpartition(".")[2]
            raise ConfigError(f"{name!r} is none of the {kind} known here: {', '.join(self.names())}")
        plugin = importlib.import_module(f"{self.package}.{module_name}").plugin
        if not (isinstance(plugin, type) and issubclass(plugin, self.base)):
            raise TypeError(f"{self.package}.{module_name}.plugin must be a class derived from {self.base.__name__}")
        return plugin

    def __iter__(self) -> Iterator[tuple[str, type[T]]]:
        """All (name, plug-in) pairs; imports every one."""
        return ((name, self.get(name)) for name in self.names())
