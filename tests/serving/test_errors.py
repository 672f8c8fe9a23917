"""Every error of a service has one status, and leaves as problem details."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving.protocols.base import TITLES, problem, status_of
from serving.wire import STATUS
from tests.serving.building import PATIENCE, Running, item, items, wait_until
from wander.errors import (
    InputError,
    MalformedBody,
    NotReady,
    Overloaded,
    RateLimited,
    ServiceError,
    TooLarge,
)

BUSY = 4
"""Rows that the queue of the `fake` server holds."""


def descendants(kind: type[ServiceError]) -> Iterator[type[ServiceError]]:
    for child in kind.__subclasses__():
        if child.__module__ == "wander.errors":
            if not child.__name__.startswith("_"):
                yield child
            yield from descendants(child)


KINDS = sorted(set(descendants(ServiceError)), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_has_a_status_and_a_title_of_its_own(kind: type[ServiceError]) -> None:
    assert kind in STATUS
    assert kind in TITLES
    assert status_of(kind("why")) == STATUS[kind]


def test_statuses_are_distinct() -> None:
    shared = {RateLimited: Overloaded}  # a client does the same about both: it waits
    assert all(STATUS[kind] == STATUS[other] for kind, other in shared.items())
    assert len(set(STATUS.values())) == len(STATUS) - len(shared) == len(KINDS) - len(shared)


def test_error_that_is_added_later_has_the_status_of_its_parent() -> None:
    class Blurred(TooLarge):
        pass

    assert status_of(Blurred("why")) == 413


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_over_http(server: Running, monkeypatch: pytest.MonkeyPatch, kind: type[ServiceError]) -> None:
    async def fail(*_: object) -> None:
        raise kind("this is why")

    monkeypatch.setattr(server.service, "predict", fail)
    answer = server.post("/v1/sentiment", json=item())
    assert answer.status_code == STATUS[kind]
    assert answer.headers["content-type"] == "application/problem+json"
    assert ("retry-after" in answer.headers) == issubclass(kind, Overloaded | NotReady)
    assert answer.json() == {
        "type": f"urn:wander:error:{kind.__name__}",
        "title": TITLES[kind],
        "status": STATUS[kind],
        "detail": "this is why",
    }


@pytest.mark.parametrize("kind", [InputError, MalformedBody, TooLarge])
def test_field_is_told_and_seen_from_outside(kind: type[InputError]) -> None:
    assert problem(kind("why", "audio"))["field"] == "audio"
    within = kind("why", "audio").within("items[3]")
    assert type(within) is kind
    assert problem(within)["field"] == "items[3].audio"
    assert problem(kind("why").within("items[3]"))["field"] == "items[3]"


def test_unforeseen_error_tells_the_log_alone(
    server: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(server.service, "predict", fail)
    answer = server.post("/v1/sentiment", json=item())
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text
    assert "RuntimeError: a secret" in caplog.text  # with its traceback
    assert server.client.get("/livez").status_code == 200


@pytest.mark.parametrize("path", ["/nothing", "/v1/nothing", "/v1", "/v1/models/a/b", "/%00"])
def test_unknown_route(server: Running, path: str) -> None:
    answer = server.client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 404


@pytest.mark.parametrize(
    ("method", "path", "allowed"), [("GET", "/v1/sentiment", "POST"), ("DELETE", "/v1/models", "GET")]
)
def test_unknown_method(server: Running, method: str, path: str, allowed: str) -> None:
    answer = server.client.request(method, path)
    assert answer.status_code == answer.json()["status"] == 405
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize("text", ["", "soon", "0", "-5", "nan", "inf", "1e400", "1,5"])
def test_timeout_header_must_be_a_positive_number(server: Running, text: str) -> None:
    answer = server.post("/v1/sentiment", json=item(), headers={"X-Request-Timeout-Ms": text})
    assert (answer.status_code, answer.json()["field"]) == (422, "x-request-timeout-ms")


def test_timeout_header_that_suffices(server: Running) -> None:
    answer = server.post("/v1/sentiment", json=item(), headers={"X-Request-Timeout-Ms": "30000.5"})
    assert answer.status_code == 200


def test_deadline_passes_while_the_engine_is_busy(fake: Running) -> None:
    fake.session("mosi").gate.clear()
    for body in (item(), {"items": items(2)}):
        answer = fake.post("/v1/sentiment", json=body, headers={"X-Request-Timeout-Ms": "20"})
        if "items" in body:
            assert [result["error"]["status"] for result in answer.json()["results"]] == [504, 504]
        else:
            assert answer.status_code == 504
            assert answer.json()["type"].endswith("DeadlineExceeded")


@pytest.fixture
def full(fake: Running) -> Iterator[Running]:
    """The engine is at work on one row and the queue is full, by requests that are answered in the end."""
    session, queue = fake.session("mosi"), fake.service.repository.get("mosi").queues["model"]
    session.gate.clear()
    session.batches.clear()
    with ThreadPoolExecutor() as pool:
        first = [pool.submit(fake.post, "/v1/sentiment", json=item())]
        wait_until(lambda: bool(session.batches))
        first.append(pool.submit(fake.post, "/v1/sentiment", json={"items": items(BUSY)}))
        wait_until(lambda: queue.queue_rows == BUSY)
        yield fake
        session.gate.set()
        for request in first:
            assert request.result(PATIENCE).status_code == 200


def test_full_queue(full: Running) -> None:
    answer = full.post("/v1/sentiment", json=item())
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert "4 rows wait and 1 more exceed 4" in answer.json()["detail"]
    bulk = full.post("/v1/sentiment", json={"items": items(2)})
    assert (bulk.status_code, bulk.json()["status"]) == (429, 429)  # what single ones obey, bulk ones do
    assert full.post("/v1/emotion", json=item()).status_code == 200  # another model has a queue of its own


def test_poisoned_item_fails_alone(fake: Running) -> None:
    fake.session("mosi").poison = lambda mark: mark > 100
    huge = {name: [[1e6] * len(row) for row in rows] for name, rows in item().items()}
    single = fake.post("/v1/sentiment", json=huge)
    assert (single.status_code, single.json()["type"]) == (500, "urn:wander:error:EngineError")
    results = fake.post("/v1/sentiment", json={"items": [item(), huge, item()]}).json()["results"]
    assert [result.get("error", {}).get("status") for result in results] == [None, 500, None]


def test_client_that_hangs_up_while_it_sends(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_connection(server.address, timeout=PATIENCE) as client:
        client.sendall(b"POST /v1/sentiment HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    registry = server.service.metrics.registry
    labels = {"route": "/v1/sentiment", "status": "499"}
    wait_until(lambda: registry.get_sample_value("wander_request_seconds_count", labels) == 1)
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
