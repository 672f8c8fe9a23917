"""Bodies that are too large are refused before they are read, however they come."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import orjson
import pytest

from serving.settings import Settings
from tests.serving.building import PATIENCE, Running, item, npz, random_rows, running, wait_until

LIMIT = 4000
HUGE = 8 << 20


@pytest.fixture(scope="module")
def small(models: Path) -> Iterator[Running]:
    with running(Settings(models=models, max_body_bytes=LIMIT)) as started:
        yield started


def refused(answer: httpx.Response) -> bool:
    return answer.status_code == 413 and answer.json()["type"] == "urn:wander:error:TooLarge"


def chunks(body: bytes, size: int = 1000) -> Iterator[bytes]:
    """Sent in pieces, without a content-length."""
    for start in range(0, len(body), size):
        yield body[start : start + size]


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize(("size", "status"), [(LIMIT, 400), (LIMIT + 1, 413)])
def test_one_byte_too_many(small: Running, size: int, status: int, pieces: bool) -> None:
    body = b" " * size
    answer = small.client.post("/v1/sentiment", content=chunks(body) if pieces else body)
    assert answer.status_code == status
    assert refused(answer) == (status == 413)


@pytest.mark.parametrize("pieces", [False, True])
def test_large_multipart(small: Running, pieces: bool) -> None:
    packed = npz(**random_rows(60))
    assert len(packed) > LIMIT
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.npz"\r\n\r\n'
    body = head + packed + b"\r\n--x--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert refused(small.client.post("/v1/sentiment", content=chunks(body) if pieces else body, headers=headers))


def test_body_that_unpacks_to_too_much(small: Running) -> None:
    packed = io.BytesIO()
    np.savez_compressed(packed, text=np.zeros((500, 3, 4), np.float32))
    assert len(packed.getvalue()) < LIMIT // 2
    answer = small.post("/v1/sentiment", files={"file": ("a.npz", packed.getvalue())})
    assert refused(answer)
    assert str(LIMIT) in answer.json()["detail"]


@pytest.mark.parametrize("pieces", [False, True])
def test_huge_body_is_not_waited_for(small: Running, pieces: bool) -> None:
    """The server answers and closes while the client still sends; a client may meet either of the two first."""
    body = bytes(HUGE)
    try:
        answer = small.client.post("/v1/sentiment", content=chunks(body, 1 << 16) if pieces else body)
    except (httpx.WriteError, httpx.ReadError):
        pass
    else:
        assert refused(answer)
    assert small.post("/v1/sentiment", json=item()).status_code == 200


def test_client_that_hangs_up_while_it_waits(fake: Running) -> None:
    """Its row leaves the queue, and is never computed."""
    session = fake.session("mosi")
    session.gate.clear()
    before = len(session.batches)  # those of its warming
    queue = fake.service.repository.get("mosi").queues["model"]
    body = orjson.dumps(item())
    head = f"POST /v1/sentiment HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(fake.address, timeout=PATIENCE) as first:
        first.sendall(head + body)
        wait_until(lambda: len(session.batches) == before + 1)
        with socket.create_connection(fake.address, timeout=PATIENCE) as second:
            second.sendall(head + body)
            wait_until(lambda: queue.queue_rows == 1)
        wait_until(lambda: queue.queue_rows == 0)
        session.gate.set()
        assert first.recv(12) == b"HTTP/1.1 200"
    assert session.batches[before:] == [1]
    registry = fake.service.metrics.registry
    labels = {"route": "/v1/sentiment", "status": "499"}
    wait_until(lambda: registry.get_sample_value("wander_request_seconds_count", labels) == 1)
    assert fake.post("/v1/sentiment", json=item()).status_code == 200
