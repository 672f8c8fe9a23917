"""Small writes of one turn of the loop are one; their order and the end of the connection are as they were."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serving.coalescing import MOST, Coalesced


class Noting:
    """A transport that notes what is done with it."""

    def __init__(self) -> None:
        self.done: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.done.append(data)

    def close(self) -> None:
        self.done.append("close")

    def abort(self) -> None:
        self.done.append("abort")

    def is_closing(self) -> bool:
        return "close" in self.done

    def get_extra_info(self, name: str) -> str:
        return name


def after(act: Callable[[Any], None], turns: int = 1) -> list[bytes | str]:
    """What a transport has seen some turns of the loop later."""

    async def run() -> list[bytes | str]:
        transport = Noting()
        act(Coalesced(transport, asyncio.get_running_loop()))  # type: ignore[arg-type]
        for _ in range(turns):
            await asyncio.sleep(0)
        return transport.done

    return asyncio.run(run())


def test_head_and_body_are_one_write() -> None:
    assert after(lambda one: (one.write(b"head"), one.write(b"body"))) == [b"headbody"]  # type: ignore[func-returns-value]


def test_nothing_is_left_behind_at_the_end() -> None:
    assert after(lambda one: (one.write(b"head"), one.close())) == [b"head", "close"]  # type: ignore[func-returns-value]


def test_what_is_aborted_is_aborted_at_once() -> None:
    assert after(lambda one: one.abort(), turns=0) == ["abort"]


def test_much_goes_out_in_the_same_turn() -> None:
    assert after(lambda one: one.write(b"x" * (MOST + 1)), turns=0) == [b"x" * (MOST + 1)]
    assert after(lambda one: one.write(b"x" * MOST), turns=0) == []


@given(st.lists(st.lists(st.binary(max_size=MOST), max_size=4), max_size=4))
def test_bytes_keep_their_order(turns: list[list[bytes]]) -> None:
    async def run() -> list[bytes | str]:
        transport = Noting()
        coalesced = Coalesced(transport, asyncio.get_running_loop())  # type: ignore[arg-type]
        for writes in turns:
            for data in writes:
                coalesced.write(data)
            await asyncio.sleep(0)
        coalesced.close()
        return transport.done

    *written, end = asyncio.run(run())
    assert b"".join(part for part in written if isinstance(part, bytes)) == b"".join(b"".join(t) for t in turns)
    assert end == "close"
