"""The error tree is the one that is drawn, and every service error has a status."""

from __future__ import annotations

import re

from wander import errors


def tree(kind: type[Exception]) -> set[str]:
    return {kind.__name__} | {name for child in kind.__subclasses__() for name in tree(child)}


def test_the_drawn_tree_is_the_real_one() -> None:
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or "")) | {"WanderError"}
    real = {n for n in tree(errors.WanderError) if not n.startswith("_") and hasattr(errors, n)}
    assert drawn == real


def test_a_field_is_seen_from_outside() -> None:
    assert errors.InputError("x", "audio").within("items[2]").field == "items[2].audio"
    assert errors.InputError("x", "[3]").within("items[2].audio").field == "items[2].audio[3]"
    assert errors.InputError("x").within("items[2]").field == "items[2]"
    assert isinstance(errors.TooLarge("x", "a").within("b"), errors.TooLarge)
