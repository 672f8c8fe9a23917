"""What stands in a checkpoint's tree for classes and functions that are never imported.

Knows no file format and no policy: a `GlobalRef` is a name, a `Stub` is a name with the data that the file gives it.
Both are inert: nothing in them is ever called, and attributes that the file sets are kept in a dict, never set on the
stub.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class GlobalRef:
    """A class or function that the file refers to, by its dotted name, e.g. `torch.nn.functional.relu`."""

    name: str


@dataclass(eq=False, repr=False)
class Stub:
    """An object of a class that was not imported.

    Attributes:
        name: dotted name of the class, e.g. `argparse.Namespace`.
        args: the arguments that the file would have called it with.
        kwargs: the same by name; nearly always empty.
        state: what the file would have restored it with, usually a dict of its attributes.
        items: what the file appends to it (classes derived from list).
        mapping: what the file sets in it by key (classes derived from dict).
    """

    name: str
    args: tuple[object, ...] = ()
    kwargs: dict[str, object] = field(default_factory=dict)
    state: object = None
    items: list[object] = field(default_factory=list)
    mapping: dict[object, object] = field(default_factory=dict)

    def __repr__(self) -> str:
        # The contents may be shared many times over or contain the stub itself.
        return f"Stub({self.name})"

    @property
    def attributes(self) -> dict[str, object]:
        """The instance attributes; the state `(dict, slots)` of a class with `__slots__` is merged."""
        parts = self.state if isinstance(self.state, tuple) and len(self.state) == 2 else (self.state,)
        dicts = [part for part in parts if isinstance(part, dict)]
        return {key: value for part in dicts for key, value in part.items() if isinstance(key, str)}


def namespace(value: object) -> dict[str, object]:
    """The fields of a stored `argparse.Namespace` or other object, or of a dict; `{}` for anything else."""
    if isinstance(value, Stub):
        return value.attributes
    if isinstance(value, dict):
        return {key: item for key, item in value.items() if isinstance(key, str)}
    return {}
