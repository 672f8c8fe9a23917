"""The authors' formats, one a file: each knows its checkpoints by the names of their tensors."""

from wander.checkpoints.formats.base import Converted, Format, Known
from wander.registry import Registry

formats: Registry[Format] = Registry("wander.checkpoints.formats", Format)

__all__ = ["Converted", "Format", "Known", "formats"]
