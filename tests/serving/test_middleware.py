"""Bodies that are too large are refused before they are read, however they come."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from serving.settings import Settings
from tests.serving.building import Running, item, npz, random_rows, running

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
