"""JSON from strangers: bounded in depth by the parser, and here in how much memory its values can take."""

from __future__ import annotations

from typing import Any

import orjson

from wander.errors import MalformedBody, TooLarge

MAX_CONTAINERS = 1 << 20
"""Lists and objects of one body. Two bytes (`[]`) become some 60 of memory; text of numbers grows eightfold at most."""


def parse_json(body: bytes | memoryview, what: str) -> Any:
    """The value of a JSON text.

    Args:
        what: names the text in errors.

    Raises MalformedBody for what is no JSON or is nested more than 1,024 levels deep, and TooLarge for more lists and
    objects than `MAX_CONTAINERS`. Their brackets count inside strings as well.
    """
    if len(body) >= MAX_CONTAINERS:
        text = bytes(body)
        if (count := text.count(b"[") + text.count(b"{")) > MAX_CONTAINERS:
            raise TooLarge(f"{what} has {count} lists and objects; at most {MAX_CONTAINERS} are read")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedBody(f"{what} is not JSON: {error}") from error
