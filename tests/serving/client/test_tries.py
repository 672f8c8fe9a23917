"""When a request is tried again: against a real HTTP server that refuses, hangs up or stays silent."""

from __future__ import annotations

import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from typing import Any

import httpx
import pytest

from serving.client._answers import retry_after
from tests.serving.client.conftest import Connect, Reply, Scripted
from wander.errors import (
    DeadlineExceeded,
    EngineError,
    Forbidden,
    InputError,
    MalformedBody,
    NotFound,
    NotReady,
    Overloaded,
    ServiceError,
    TooLarge,
    Unreachable,
)

GOOD = Reply(body=b'{"score": 1.5}')
BUSY = Reply(429, b'{"detail": "full"}', {"retry-after": "0"})


def refused(status: int, **headers: str) -> Reply:
    return Reply(status, b'{"detail": "why"}', {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize("status", [429, 503])
def test_waits_as_long_as_it_is_asked_to(scripted: Scripted, connect: Connect, status: int) -> None:
    scripted.replies = [refused(status, retry_after="1"), GOOD]
    assert connect(scripted.url).predict("x", {})["score"] == 1.5
    first, second = scripted.requests
    assert second.at - first.at >= 1
    assert (first.method, first.path, first.body) == (second.method, second.path, second.body)


def test_without_retry_after_it_waits_longer_each_time(scripted: Scripted, connect: Connect) -> None:
    scripted.replies = [refused(503), refused(429), GOOD]
    assert connect(scripted.url).predict("x", {})["score"] == 1.5
    waits = [later.at - earlier.at for earlier, later in pairwise(scripted.requests)]
    assert waits[0] >= 0.1
    assert waits[1] >= 0.2


@pytest.mark.parametrize(("tries", "kind"), [(1, Overloaded), (3, Overloaded), (4, None)])
def test_tries_are_bounded(scripted: Scripted, connect: Connect, tries: int, kind: type[Exception] | None) -> None:
    scripted.replies = [BUSY, BUSY, BUSY, GOOD]
    client = connect(scripted.url, tries=tries)
    if kind is None:
        assert client.predict("x", {})["score"] == 1.5
    else:
        with pytest.raises(kind, match="full"):
            client.predict("x", {})
    assert len(scripted.requests) == tries


def test_the_last_refusal_says_when_to_come_back(scripted: Scripted, connect: Connect) -> None:
    scripted.replies = [refused(503, retry_after="17")]
    with pytest.raises(NotReady) as caught:
        connect(scripted.url, tries=1).predict("x", {})
    assert caught.value.retry_after == 17


def test_no_try_begins_after_the_deadline(scripted: Scripted, connect: Connect) -> None:
    """It does not wait for what would be too late."""
    scripted.replies = [refused(429, retry_after="30"), GOOD]
    started = time.monotonic()
    with pytest.raises(Overloaded):
        connect(scripted.url).predict("x", {}, timeout_ms=20_000)
    assert time.monotonic() - started < 20
    assert len(scripted.requests) == 1


def test_the_server_is_told_what_is_left(scripted: Scripted, connect: Connect) -> None:
    scripted.replies = [refused(429), refused(429), GOOD]
    connect(scripted.url).predict("x", {}, timeout_ms=20_000)
    told = [float(request.headers["x-request-timeout-ms"]) for request in scripted.requests]
    gone = [(request.at - scripted.requests[0].at) * 1000 for request in scripted.requests]
    assert 0 < told[0] <= 20_000
    assert told[0] - told[2] >= 300  # the two waits
    assert all(left + since <= 20_000 + 1000 for left, since in zip(told, gone, strict=True))


@pytest.mark.parametrize("status", [400, 401, 404, 422, 500, 502, 504])
def test_other_refusals_are_final(scripted: Scripted, connect: Connect, status: int) -> None:
    scripted.replies = [refused(status, retry_after="0"), GOOD]
    with pytest.raises(ServiceError):
        connect(scripted.url).predict("x", {})
    assert len(scripted.requests) == 1


def test_not_ready_is_an_answer(scripted: Scripted, connect: Connect) -> None:
    scripted.replies = [refused(503, retry_after="0"), GOOD]
    client = connect(scripted.url)
    assert client.ready() is False
    assert client.ready() is True
    assert len(scripted.requests) == 2


def test_connection_that_breaks(scripted: Scripted, connect: Connect) -> None:
    client = connect(scripted.url)
    scripted.replies = [Reply(hangs_up=True), GOOD]
    assert client.predict("x", {})["score"] == 1.5
    for ask in (lambda: client.delete_item("a", "b"), lambda: client.load("m"), lambda: client.delete_index("a")):
        scripted.replies, scripted.requests = [Reply(hangs_up=True), GOOD], []
        with pytest.raises(ServiceError, match="broke"):
            ask()
        assert len(scripted.requests) == 1


def test_server_that_comes_late(connect: Connect) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_DELETE(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"deleted": true}')

        def log_message(self, *_: Any) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    with server:
        server.server_bind()  # and does not listen: connections are refused
        url = f"http://127.0.0.1:{server.server_address[1]}"
        with pytest.raises(Unreachable):
            connect(url, tries=1).delete_item("a", "b")
        timer = threading.Timer(0.05, server.server_activate)
        timer.start()
        answering = threading.Thread(target=lambda: (timer.join(), server.handle_request()))
        answering.start()
        assert connect(url, tries=8).delete_item("a", "b") is True  # nothing was sent before, so it may be repeated
        answering.join()


def test_server_that_stays_silent(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = connect(f"http://127.0.0.1:{listening.getsockname()[1]}")
        with pytest.raises(DeadlineExceeded, match="did not answer within 50 ms"):
            client.predict("x", {}, timeout_ms=50)


def test_headers(scripted: Scripted, connect: Connect) -> None:
    connect(scripted.url + "/under/a/path/", api_key="s3cret").predict(
        "image_text", {}, operation="embed", request_id="r1"
    )
    (request,) = scripted.requests
    assert request.path == "/under/a/path/v1/image-text/embed"
    assert request.headers["authorization"] == "Bearer s3cret"
    assert request.headers["x-request-id"] == "r1"
    connect(scripted.url).metrics()
    assert not {"authorization", "x-request-id"} & set(scripted.requests[1].headers)


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (404, b'{"error": "no such model"}', NotFound, "no such model"),
        (400, b'{"error": "broken"}', MalformedBody, "broken"),
        (413, b"<html>", TooLarge, "answers 413"),
        (403, b"", Forbidden, "answers 403"),
        (502, b"<html>Bad Gateway", Unreachable, "answers 502"),
        (418, b"[]", InputError, "answers 418"),
        (599, b"{}", ServiceError, "answers 599"),
        (307, b"", ServiceError, "answers 307"),
        (404, b'{"type": "urn:wander:error:EngineError", "detail": "a"}', EngineError, "a"),
        (404, b'{"type": "about:blank", "detail": "a"}', NotFound, "a"),
        (422, b'{"detail": [{"msg": "a"}], "field": "b"}', InputError, "msg"),
    ],
    ids=str,
)
def test_refusals_of_other_forms(
    scripted: Scripted, connect: Connect, status: int, body: bytes, kind: type[ServiceError], message: str
) -> None:
    scripted.replies = [Reply(status, body)]
    with pytest.raises(ServiceError, match=message) as caught:
        connect(scripted.url).predict("x", {})
    assert type(caught.value) is kind


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"3", b"{}", b"\xff"], ids=str)
def test_answers_of_another_kind_of_server(scripted: Scripted, connect: Connect, body: bytes) -> None:
    scripted.replies = [Reply(200, body)]
    client = connect(scripted.url)
    for ask in (client.models, client.indexes, lambda: client.items("a"), lambda: client.predict_many("a", [{}])):
        with pytest.raises(ServiceError, match="answers"):
            ask()


def test_retry_after_can_be_a_date() -> None:
    def asked(text: str) -> float | None:
        return retry_after(httpx.Response(429, headers={"retry-after": text}))

    later = datetime.now(UTC) + timedelta(seconds=100)
    assert 90 < (asked(format_datetime(later, usegmt=True)) or 0) <= 100
    assert asked("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert (asked("0"), asked("1.5"), asked("-3")) == (0, 1.5, 0)
    assert [asked(text) for text in ("soon", "nan", "inf", "")] == [None] * 4
