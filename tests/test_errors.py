"""The error tree is the one that is drawn, and every service error has a status."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator

import pytest

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


def kinds(kind: type[errors.ServiceError]) -> Iterator[type[errors.ServiceError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from kinds(child)


@pytest.mark.parametrize("kind", sorted(set(kinds(errors.ServiceError)), key=lambda kind: kind.__name__))
def test_errors_of_a_service_pass_between_processes(kind: type[errors.ServiceError]) -> None:
    """With all that they say: some are raised where a graph is run, and told to the client elsewhere."""
    error = kind("what is wrong")
    for name, value in (("field", "items[2].audio"), ("retry_after", 7.5)):
        if hasattr(error, name):
            setattr(error, name, value)
    got = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(got), str(got), vars(got)) == (kind, "what is wrong", vars(error))
