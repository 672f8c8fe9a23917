"""Clients that send too much, too slowly, or never read: raw sockets against a real server."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from serving.app import create_app
from serving.connections import ConnectionLimits, made_with
from serving.settings import Settings
from tests.serving.building import PATIENCE, Running, item, running, wait_until

LIMITS = ConnectionLimits(connections=8, head_s=0.3, body_s=1.2, stall_s=0.6, check_s=0.02)
"""Short times, so that the tests are; the numbers of bytes are those of every server."""
BODY_S = 0.4
POST = b"POST /v1/sentiment HTTP/1.1\r\nhost: x\r\n"


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Running]:
    settings = Settings(models=models, body_timeout_s=BODY_S)
    with running(settings, http=made_with(LIMITS)) as started:
        yield started


@pytest.fixture
def client(server: Running) -> Iterator[socket.socket]:
    with socket.create_connection(server.address, timeout=PATIENCE) as connected:
        yield connected


def rest(client: socket.socket) -> bytes:
    """What the server still sends until it closes, which it must."""
    received = b""
    with suppress(ConnectionResetError):
        while piece := client.recv(1 << 16):
            received += piece
    return received


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def send(client: socket.socket, *pieces: bytes) -> None:
    """Sends, though the server may close meanwhile."""
    with suppress(BrokenPipeError, ConnectionResetError):
        for piece in pieces:
            client.sendall(piece)


def trickle(client: socket.socket, piece: bytes, every: float = 0.05) -> float:
    """Sends the same again and again until the server closes; how long it took."""
    started = time.monotonic()
    with suppress(BrokenPipeError, ConnectionResetError):
        while time.monotonic() - started < PATIENCE:
            client.sendall(piece)
            time.sleep(every)
    return time.monotonic() - started


def test_limits_of_a_server_are_those_of_its_settings() -> None:
    limits = ConnectionLimits.of(Settings(max_connections=7, body_timeout_s=3))
    assert (limits.connections, limits.body_s) == (7, 8)
    assert replace(limits, connections=1000, body_s=65.0) == ConnectionLimits()


# Too much


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 414),
        (b"GET /livez?" + b"a" * 9000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 414),
        (b"GET /livez HTTP/1.1\r\n" + b"".join(b"x%d: y\r\n" % n for n in range(101)) + b"\r\n", 431),
        (b"GET /livez HTTP/1.1\r\nx: " + b"y" * (64 << 10) + b"\r\n\r\n", 431),
        (b"GET /livez HTTP/1.1\r\n" + (b"x" * 500 + b": y\r\n") * 99 + b"z: " + b"z" * (32 << 10) + b"\r\n\r\n", 431),
        (b"GET /livez HTTP/1.1\r\nx: " + b"y" * (1 << 20), 431),  # that never ends
        (b"GET /livez?" + b"y" * (1 << 20), 431),
        (b"\r\n" * (1 << 20), 431),
    ],
    ids=["path", "query", "headers", "header", "all headers", "endless header", "endless address", "blank lines"],
)
def test_too_large_a_head(client: socket.socket, server: Running, head: bytes, expected: int) -> None:
    send(client, head)
    answer = rest(client)
    assert answer == b"" or status(answer) == expected  # a client that still sends may not see the answer
    assert server.client.get("/livez").status_code == 200


def test_head_within_its_limits(client: socket.socket) -> None:
    head = b"GET /livez?" + b"a" * 8000 + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    client.sendall(head + b"".join(b"x%d: %s\r\n" % (n, b"y" * 500) for n in range(98)) + b"\r\n")
    assert status(rest(client)) == 200


@pytest.mark.parametrize("piece", [b"x" * 4096, b"ab\r\nx: y\r\n"], ids=["extension", "trailers"])
def test_endless_bytes_around_the_pieces_of_a_body(client: socket.socket, server: Running, piece: bytes) -> None:
    """They are no body, so that no limit on bodies counts them; the parser would keep them all."""
    begin = b"1;a=" if piece.startswith(b"x") else b"0\r\nx: "
    send(client, POST + b"transfer-encoding: chunked\r\n\r\n", begin, *[piece] * ((1 << 20) // len(piece)))
    answer = rest(client)
    assert answer == b"" or status(answer) in (400, 431)
    assert server.client.get("/livez").status_code == 200


def test_two_lengths_are_none(client: socket.socket) -> None:
    """Of a request that two servers would read differently, nothing is read."""
    send(client, POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n")
    assert status(rest(client)) == 400


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 1\r\ncontent-length: 2\r\n\r\n{}",
        b"content-length: -1\r\n\r\n",
        b"content-length: 1e3\r\n\r\n",
        b"content-length: 99999999999999999999999\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        b"content length: 3\r\n\r\n",
        b"x: a\0b\r\n\r\n",
        b" folded: x\r\n\r\n",
    ],
)
def test_broken_heads(client: socket.socket, server: Running, head: bytes) -> None:
    client.sendall(POST + head)
    assert status(rest(client)) in (400, 408)
    assert server.client.get("/livez").status_code == 200


@pytest.mark.parametrize(
    "noise", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\0" * 100, b"PRI * HTTP/2.0\r\n\r\n"]
)
def test_other_protocols(client: socket.socket, noise: bytes) -> None:
    client.sendall(noise)
    assert status(rest(client)) in (400, 404, 405, 408)


def test_more_connections_than_there_may_be(server: Running) -> None:
    """Those that are there go on; who comes next is refused at once, and let in when one has gone."""
    server.client.get("/livez")
    with ExitStack() as stack:
        held = [
            stack.enter_context(socket.create_connection(server.address, timeout=PATIENCE))
            for _ in range(LIMITS.connections - 1)
        ]
        for connected in held:
            connected.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            assert status(connected.recv(1 << 16)) == 200
        answer = rest(stack.enter_context(socket.create_connection(server.address, timeout=PATIENCE)))
        assert status(answer) == 503
        assert b"retry-after: 1" in answer
        held[0].sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        assert status(held[0].recv(1 << 16)) == 200
    assert server.client.get("/livez").status_code == 200


# Too slowly


@pytest.mark.parametrize("begun", [b"", b"GET /livez HTTP/1.1\r\n", b"\r\n"], ids=["nothing", "half a head", "a line"])
def test_head_that_does_not_come(client: socket.socket, begun: bytes) -> None:
    client.sendall(begun)
    answer = rest(client)
    assert status(answer) == 408
    assert b"connection: close" in answer


@pytest.mark.parametrize("piece", [b"x: y\r\n", b"y"])
def test_head_that_trickles(client: socket.socket, piece: bytes) -> None:
    client.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n")
    assert trickle(client, piece) < PATIENCE


def test_second_head_that_trickles(client: socket.socket) -> None:
    """Blank lines, too, which end the wait between two requests and begin none."""
    client.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
    assert status(client.recv(1 << 16)) == 200
    assert trickle(client, b"\r\n") < PATIENCE


@pytest.mark.parametrize("kind", [b"content-length: 100", b"transfer-encoding: chunked"])
def test_body_that_does_not_come(client: socket.socket, server: Running, kind: bytes) -> None:
    """It is answered in the form of the protocol."""
    client.sendall(POST + kind + b"\r\n\r\n" + (b"{" if b"length" in kind else b"1\r\n{\r\n"))
    client.settimeout(PATIENCE)
    answer = client.recv(1 << 16)
    assert status(answer) == 408
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {
        "type": "urn:wander:error:SlowRequest",
        "title": "The request came too slowly",
        "status": 408,
        "detail": f"the body did not come whole within {BODY_S:g} s",
    }
    rest(client)  # and then the connection ends
    assert server.post("/v1/sentiment", json=item()).status_code == 200


@pytest.mark.parametrize(
    ("path", "media"),
    [
        (b"/v1/sentiment", b"application/json"),
        (b"/v1/food", b"multipart/form-data; boundary=x"),
        (b"/v1/retrieval/a/search", b"multipart/form-data; boundary=x"),
        (b"/nothing", b"application/json"),
    ],
)
def test_body_that_trickles(client: socket.socket, path: bytes, media: bytes) -> None:
    """However slowly it comes, and though it may have been answered: the connection ends."""
    head = b"POST " + path + b" HTTP/1.1\r\nhost: x\r\ncontent-type: " + media + b"\r\ncontent-length: 100000\r\n\r\n"
    client.sendall(head + b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n')
    assert trickle(client, b" ") < PATIENCE


def test_body_that_comes_in_pieces_but_in_time(client: socket.socket) -> None:
    body = json.dumps(item()).encode()
    client.sendall(POST + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body))
    for start in range(0, len(body), 100):
        client.sendall(body[start : start + 100])
        time.sleep(0.01)
    assert status(rest(client)) == 200


@pytest.mark.parametrize("piece", [b"\r\n", b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"])
def test_client_that_does_not_read(server: Running, caplog: pytest.LogCaptureFixture, piece: bytes) -> None:
    """Answers wait for it in memory, but not for ever; nor does it fill the log."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(PATIENCE)
        client.connect(server.address)
        client.sendall(b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nhost: x\r\n\r\n" * 8)
        assert trickle(client, piece) < PATIENCE
    assert server.client.get("/livez").status_code == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_request_that_is_computed_for_long_is_not_slow(models: Path) -> None:
    """Only what the client does counts: the engine may take longer than any of the limits."""
    settings = Settings(models=models, engine="fake", instances=1, body_timeout_s=0.1)
    limits = replace(LIMITS, head_s=0.1, body_s=0.1, stall_s=0.1)
    with running(settings, http=made_with(limits)) as server, socket.create_connection(server.address) as client:
        session = server.session("mosi")
        session.gate.clear()
        session.batches.clear()
        body = json.dumps(item()).encode()
        client.settimeout(PATIENCE)
        client.sendall(POST + b"content-length: %d\r\n\r\n" % len(body) + body)
        wait_until(lambda: bool(session.batches))
        time.sleep(0.5)
        session.gate.set()
        server.session("iemocap").gate.set()
        assert status(client.recv(1 << 16)) == 200


def test_server_ends_though_clients_hold_on(models: Path) -> None:
    with ExitStack() as stack, running(Settings(models=models), create_app(Settings(models=models))) as server:
        for begun in (b"", b"GET /livez HTTP/1.1\r\n"):
            client = stack.enter_context(socket.create_connection(server.address, timeout=PATIENCE))
            client.sendall(begun)
        assert server.client.get("/livez").status_code == 200
