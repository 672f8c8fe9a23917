"""A head goes out with its body; what has none, or is streamed, does not wait."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.coalescing import Coalesced
from serving.settings import Settings
from tests.serving.building import PATIENCE, publish, running

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"
STREAMED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


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


Act = Callable[[Coalesced], object]


@pytest.mark.parametrize(
    ("acts", "seen"),
    [
        ([lambda one: one.write(HEAD)], []),
        ([lambda one: one.write(HEAD), lambda one: one.write(b"body")], [HEAD + b"body"]),
        (
            [lambda one: one.write(HEAD), lambda one: one.write(b"bo"), lambda one: one.write(b"dy")],
            [HEAD + b"bo", b"dy"],
        ),
        ([lambda one: one.write(HEAD), lambda one: one.flush(), lambda one: one.flush()], [HEAD]),
        ([lambda one: one.write(HEAD), lambda one: one.close()], [HEAD, "close"]),
        ([lambda one: one.write(STREAMED), lambda one: one.write(b"a")], [STREAMED, b"a"]),
        ([lambda one: one.write(b"HTTP/1.1 100 Continue\r\n\r\n")], [b"HTTP/1.1 100 Continue\r\n\r\n"]),
        ([lambda one: one.abort()], ["abort"]),
    ],
)
def test_what_is_written_when(acts: list[Act], seen: list[bytes | str]) -> None:
    transport = Noting()
    coalesced = Coalesced(transport)  # type: ignore[arg-type]
    for act in acts:
        act(coalesced)
    assert transport.done == seen


def test_answers_without_a_body_come_too(tmp_path: Path) -> None:
    publish(tmp_path / "models" / "mosi")
    with running(Settings(models=tmp_path / "models")) as server:
        connection = http.client.HTTPConnection(*server.address, timeout=PATIENCE)
        for method, path in (("HEAD", "/livez"), ("HEAD", "/nowhere"), ("GET", "/livez")):
            connection.request(method, path)
            answer = connection.getresponse()
            assert bool(answer.read()) == (method == "GET")
        connection.close()
