"""A file as strangers send it, and what it deserves."""

from __future__ import annotations

from typing import Literal, NamedTuple

from wander.errors import InputError

Expected = type[InputError] | Literal["ok"]


class Case(NamedTuple):
    """`expected` is "ok" for a file that is whole, otherwise exactly the class of the error."""

    name: str
    data: bytes
    expected: Expected
    note: str = ""
