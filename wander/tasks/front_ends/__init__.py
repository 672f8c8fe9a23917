"""Raw input of one modality to features, one front end a file. numpy, PyAV; no torch."""

from wander.registry import Registry
from wander.tasks.front_ends.base import FrontEnd, FrontEndOptions, Rows

front_ends: Registry[FrontEnd] = Registry("wander.tasks.front_ends", FrontEnd)

__all__ = ["FrontEnd", "FrontEndOptions", "Rows", "front_ends"]
