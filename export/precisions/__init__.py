"""The arithmetics that a graph can be narrowed to, one a file. What fp32 needs is nothing."""

from export.precisions.base import Narrowing
from wander.registry import Registry

precisions: Registry[Narrowing] = Registry("export.precisions", Narrowing)

__all__ = ["Narrowing", "precisions"]
