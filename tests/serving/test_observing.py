"""Ids, logs and traces of requests: what an operator sees, and that it never holds what a request does."""

from __future__ import annotations

import http.server
import itertools
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from serving.logs import REQUEST_ID, Json, Text, request_id
from serving.settings import Settings
from tests.serving.building import PATIENCE, Running, item, running, wait_until
from tests.serving.conftest import Command

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


# Ids


def test_every_answer_has_an_id_of_its_own(server: Running) -> None:
    paths = ("/livez", "/v1/none", "/v2/models/mosi", "/metrics")
    ids = [server.client.get(path).headers["x-request-id"] for path in paths * 2]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("path", ["/livez", "/v1/none", "/v2/health/live"])
def test_id_of_the_client_is_kept(server: Running, path: str) -> None:
    assert server.client.get(path, headers={"x-request-id": "mine:1"}).headers["x-request-id"] == "mine:1"


@pytest.mark.parametrize("given", [None, b"", b"a b", b"a\tb", b"\xe9", b"x" * 129, b"a\x1b[31m", b'"', b"a,b"])
def test_id_that_could_forge_a_log_is_replaced(given: bytes | None) -> None:
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]+", request_id(given))


# Logs


def record(**more: object) -> logging.LogRecord:
    made = logging.LogRecord("serving.x", logging.INFO, "x.py", 1, "said %s", ('"so"\nand so',), None)
    vars(made).update(more)
    return made


def test_json_line() -> None:
    line = Json().format(record(created=1.5, msecs=500.0, request_id="r-1", fields={"status": 200}))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:01.500Z",
        "level": "info",
        "logger": "serving.x",
        "message": 'said "so"\nand so',
        "request_id": "r-1",
        "status": 200,
    }


def test_exceptions_are_part_of_the_line() -> None:
    try:
        raise ValueError("broken")
    except ValueError as error:
        exc_info = (type(error), error, error.__traceback__)
    line = Json().format(record(exc_info=exc_info))
    assert "ValueError: broken" in json.loads(line)["exception"]


def test_text_line() -> None:
    assert " INFO serving.x [r-1]: said" in Text().format(record(request_id="r-1"))


def test_access_log_of_a_real_server(command: Callable[..., Command], http: httpx.Client) -> None:
    """One line a request, none of them with what it held."""
    started = command("--log-format", "json", "--access-log", "--log-level", "info")
    secret = 0.123456789
    asked = {**item(), "text": [[secret] * 4]}
    http.post(f"{started.url}/v1/sentiment?model=mosi&x=y", json=asked, headers={"x-request-id": "one"})
    http.post(f"{started.url}/v1/sentiment", json={"text": "secret-text"}, headers={"x-request-id": "two"})
    http.get(f"{started.url}/a%0Ab%22", headers={"x-request-id": "three"})
    _, written = started.stop()
    lines = [json.loads(line) for line in written.splitlines()]
    seen = {line["request_id"]: line for line in lines if line["logger"] == "serving.access"}
    assert {key: (line["method"], line["path"], line["route"], line["status"]) for key, line in seen.items()} == {
        "one": ("POST", "/v1/sentiment", "/v1/sentiment", 200),
        "two": ("POST", "/v1/sentiment", "/v1/sentiment", 422),
        "three": ("GET", "/a%0Ab%22", "none", 404),
    }
    assert all(line["ms"] > 0 for line in seen.values())
    for held in ("secret-text", "0.1234", "x=y"):
        assert held not in written


def test_nothing_is_logged_of_requests_unless_asked_for(command: Callable[..., Command], http: httpx.Client) -> None:
    started = command("--log-level", "info")
    http.post(f"{started.url}/v1/sentiment", json=item())
    assert "sentiment" not in started.stop()[1].replace("/v1/sentiment?model", "")


def test_what_is_logged_during_a_request_has_its_id(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []
    log = logging.getLogger("serving.app")
    handler = logging.Handler()
    handler.emit = lambda _: seen.append(REQUEST_ID.get())  # type: ignore[method-assign]
    log.addHandler(handler)
    try:
        service = server.service
        original, service.resolve = service.resolve, lambda *asked: log.error("on the way") or original(*asked)  # type: ignore[method-assign,func-returns-value]
        server.post("/v1/sentiment", json=item(), headers={"x-request-id": "mine"})
    finally:
        service.resolve = original  # type: ignore[method-assign]
        log.removeHandler(handler)
    assert seen == ["mine"]


# Traces


class Collector(http.server.BaseHTTPRequestHandler):
    """An OTLP receiver."""

    spans: list[Span]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        request = ExportTraceServiceRequest.FromString(body)
        self.spans += [span for r in request.resource_spans for s in r.scope_spans for span in s.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collected() -> Iterator[tuple[str, list[Span]]]:
    """Where traces can be sent, and those that came."""
    kind = type("Own", (Collector,), {"spans": []})
    receiver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{receiver.server_port}/v1/traces", kind.spans
    receiver.shutdown()
    receiver.server_close()


def test_traces_reach_a_collector(models: Path, collected: tuple[str, list[Span]]) -> None:
    endpoint, spans = collected
    with running(Settings(models=models, otlp_endpoint=endpoint)) as server:
        assert server.post("/v1/sentiment", json=item(), headers={"traceparent": PARENT}).status_code == 200
        assert server.post("/v1/sentiment", json={}).status_code == 422
    wait_until(lambda: len(spans) >= 7)  # closing sends the rest
    mine = [span for span in spans if span.trace_id.hex() == PARENT.split("-")[1]]
    (root,) = [span for span in mine if span.kind == Span.SPAN_KIND_SERVER]
    assert root.parent_span_id.hex() == PARENT.split("-")[2]
    assert root.name == "POST /v1/sentiment"
    attributes = {a.key: a.value for a in root.attributes}
    assert attributes["http.response.status_code"].int_value == 200
    stages = sorted((s for s in mine if s is not root), key=lambda span: span.start_time_unix_nano)
    assert [span.name for span in stages] == ["preprocess", "queue", "inference", "postprocess"]
    for before, after in itertools.pairwise(stages):
        assert before.end_time_unix_nano == after.start_time_unix_nano
    for span in stages:
        assert span.parent_span_id == root.span_id
        assert {a.key: a.value.string_value for a in span.attributes}["wander.model"] == "mosi"
    failed = [span for span in spans if span.trace_id != root.trace_id and span.kind == Span.SPAN_KIND_SERVER]
    assert 422 in [a.value.int_value for span in failed for a in span.attributes]


def test_nothing_is_traced_that_the_client_does_not_want(models: Path, collected: tuple[str, list[Span]]) -> None:
    endpoint, spans = collected
    with running(Settings(models=models, otlp_endpoint=endpoint, trace_ratio=0)) as server:
        server.post("/v1/sentiment", json=item())
        server.post("/v1/sentiment", json=item(), headers={"traceparent": PARENT[:-1] + "0"})
        server.post("/v1/sentiment", json=item(), headers={"traceparent": PARENT})  # this one it wants
    wait_until(lambda: len(spans) == 5)
    assert {span.trace_id.hex() for span in spans} == {PARENT.split("-")[1]}


def test_collector_that_is_not_there_costs_no_request(models: Path) -> None:
    with running(Settings(models=models, otlp_endpoint="http://127.0.0.1:9/v1/traces")) as server:
        assert server.post("/v1/sentiment", json=item(), timeout=PATIENCE).status_code == 200
