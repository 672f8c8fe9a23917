"""What every route needs, and that a server asks for it: every route of the application, with every kind of key."""

from __future__ import annotations

import json
import logging
import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

import httpx
import pytest
from starlette.routing import BaseRoute, Route

from serving.app import create_app
from serving.auth import Access, Role
from serving.auth.access import GRPC, Table, access_of_rpc, is_loopback
from serving.settings import Settings
from tests.serving.auth.test_keys import entry
from tests.serving.building import PATIENCE, Running, item, items, running
from wander.errors import UsageError

TABLE = Table()
KEYS = {role: f"wander_{role.value}_{'k' * 40}" for role in Role}
SLOW = "wander_slow_" + "s" * 40
BURST = 5


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key for each role, and one that may ask five times."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    some = [entry(key, role.value, roles=[role.value]) for role, key in KEYS.items()]
    path.write_text(json.dumps([*some, entry(SLOW, "slow", rate=0.001, burst=BURST)]))
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def guarded(models: Path, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = Settings(
        models=models, indexes=tmp_path_factory.mktemp("indexes"), keys=str(keys), model_control="explicit"
    )
    with running(settings) as started:
        yield started


def leaves(routes: Iterable[BaseRoute]) -> Iterator[Route]:
    """The routes themselves; FastAPI keeps those of a router together."""
    for route in routes:
        if (router := getattr(route, "original_router", None)) is not None:
            yield from leaves(router.routes)
        else:
            assert isinstance(route, Route), f"{route} is neither a route nor a router: what it mounts needs entries"
            yield route


@pytest.fixture(scope="module")
def routes(models: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """Every (method, template) that the application answers to."""
    app = create_app(Settings(models=models, indexes=tmp_path_factory.mktemp("indexes")))
    found = [(m, route.path) for route in leaves(app.routes) for m in route.methods or () if m != "HEAD"]
    assert len(found) == len(set(found)) > 15
    return found


def filled(template: str) -> str:
    return re.sub(r"\{(\w+)(:path)?\}", r"some-\1", template)


# The table


def test_every_route_has_an_entry(routes: list[tuple[str, str]]) -> None:
    """A route that is added has to be thought about."""
    assert [route for route in routes if route not in TABLE.entries] == []


def test_every_entry_matches_its_own_path() -> None:
    for (method, template), access in TABLE.entries.items():
        assert TABLE.listed(method, filled(template)) == access, template


def test_what_writes_or_controls_is_for_those_who_may(routes: list[tuple[str, str]]) -> None:
    """Said once more, by what the routes are: the table itself could be wrong."""
    for method, template in [*routes, *TABLE.entries]:
        expected: set[Access] = {"open", "key", Role.INFER}
        if template.startswith("/v2/repository/models/"):
            expected = {Role.ADMIN}
        elif method in ("PUT", "DELETE", "PATCH") or template.endswith("/rebuild"):
            expected = {Role.INDEX_WRITE}
        elif method == "POST":
            expected = {"open"} if template.startswith("/demo/") else {Role.INFER}
        assert TABLE.entries[method, template] in expected, (method, template)
    open_ones = {template for (_, template), access in TABLE.entries.items() if access == "open"}
    assert open_ones - {"/demo", "/demo/{path:path}"} == {"/livez", "/readyz", "/v2/health/live", "/v2/health/ready"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/models"), ("POST", "/v1/adapters/load"), ("POST", "/v1/sentiment/"), ("POST", "/v1//sentiment"),
        ("GET", "//livez"), ("GET", "/livez/"), ("GET", "/livez\n"), ("GET", "/LIVEZ"), ("GET", "/v1/models/a/b"),
        ("GET", "/docs/../v2"), ("POST", "/v2/models/a/b/infer"), ("POST", "/v2/repository/models/x/load/"),
        ("POST", "/v2/models/../repository/models/x/load"), ("get", "/livez"), ("TRACE", "/livez"), ("GET", ""),
        ("GET", "/"), ("", ""), ("BREW", "/v1/models"), ("PUT", "/v1/retrieval/a"), ("GET", "*"),
    ],
)  # fmt: skip
def test_what_is_not_in_the_table_is_for_admins(method: str, path: str) -> None:
    assert TABLE.listed(method, path) is None
    assert TABLE.listed(method, path) is None  # which the guard reads as admin


def test_head_needs_what_get_needs() -> None:
    assert TABLE.listed("HEAD", "/livez") == "open"
    assert TABLE.listed("HEAD", "/v1/models") == Role.INFER


def test_grpc() -> None:
    assert access_of_rpc("/inference.GRPCInferenceService/ModelInfer") == access_of_rpc("ModelInfer") == Role.INFER
    assert access_of_rpc("ServerLive") == "open"
    assert {name for name, access in GRPC.items() if access == Role.ADMIN} == {
        "RepositoryModelLoad",
        "RepositoryModelUnload",
    }
    for unknown in ("SystemSharedMemoryRegister", "TraceSetting", "LogSettings", "", "modelinfer", "ModelInfer/"):
        assert access_of_rpc(unknown) == Role.ADMIN


def test_grpc_knows_every_method_of_the_protocol() -> None:
    """Those of its description that a client ships; what we do not serve stays with admins."""
    service = pytest.importorskip("tritonclient.grpc.service_pb2").DESCRIPTOR.services_by_name["GRPCInferenceService"]
    methods = {method.name for method in service.methods}
    assert set(GRPC) <= methods
    for method in methods - set(GRPC):
        assert re.search("SharedMemory|Setting", method)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
        ("10.0.0.1", False), ("example.org", False), ("", False), ("localhost.example.org", False),
    ],
)  # fmt: skip
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


# A server with keys


def test_every_route_refuses_every_key_but_those_that_may(guarded: Running, routes: list[tuple[str, str]]) -> None:
    """Every route, with no key, with a wrong one, and with that of every role."""
    for method, template in routes:
        access, path = TABLE.entries[method, template], filled(template)
        for role, key in (("none", None), ("wrong", "wander_" + "x" * 40), *KEYS.items()):
            answer = guarded.client.request(method, path, headers=bearer(key) if key else {})
            where = (method, template, role)
            if access == "open":
                assert answer.status_code in (200, 503), where
            elif not isinstance(role, Role):
                assert answer.status_code == 401, where
                assert answer.headers["www-authenticate"] == "Bearer", where
                assert "Authorization" in answer.text, where
            elif access not in ("key", role):
                assert answer.status_code == 403, where
                assert role.value in answer.text, where
            else:
                assert answer.status_code not in (401, 403, 405), where


def test_errors_have_the_form_of_their_protocol(guarded: Running) -> None:
    answer = guarded.post("/v1/sentiment", json=item())
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "urn:wander:error:Unauthorized",
        "title": "A key is needed",
        "status": 401,
        "detail": "a key is needed; send it as the header Authorization: Bearer KEY",
    }
    answer = guarded.post("/v1/sentiment", json=item(), headers=bearer(KEYS[Role.ADMIN]))
    assert answer.json()["type"] == "urn:wander:error:Forbidden"
    assert answer.json()["detail"] == "the key 'admin' has not the role infer, which this needs"


def test_the_right_key_is_answered(guarded: Running) -> None:
    answer = guarded.post("/v1/sentiment", json=item(), headers=bearer(KEYS[Role.INFER]))
    assert answer.status_code == 200
    assert answer.json()["model"] == "mosi"


def test_unlisted_paths_are_told_to_nobody_but_admins(guarded: Running, tmp_path: Path) -> None:
    """A route that someone forgets to list: it answers an admin, and nobody else sees that it is there."""
    settings = guarded.service.settings.model_copy(update={"indexes": tmp_path})
    app = create_app(settings)

    @app.get("/forgotten")
    async def forgotten() -> str:
        return "here"

    with running(settings, app) as server:
        for key, status in ((None, 401), (KEYS[Role.INFER], 404), (KEYS[Role.ADMIN], 200)):
            answer = server.client.get("/forgotten", headers=bearer(key) if key else {})
            assert answer.status_code == status
        answer = server.client.post("/forgotten", headers=bearer(KEYS[Role.INFER]))
        assert answer.status_code == 404


def test_unlisted_method_of_a_listed_path(guarded: Running) -> None:
    for method in ("DELETE", "PATCH", "OPTIONS", "QUERY"):
        answer = guarded.client.request(method, "/v1/models", headers=bearer(KEYS[Role.INFER]))
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
        assert answer.headers["content-type"] == "application/problem+json"


def test_two_authorizations_are_none(guarded: Running) -> None:
    """Whatever stands before us may have looked at the other one."""
    key = KEYS[Role.INFER]
    headers = [("Authorization", f"Bearer {key}"), ("Authorization", f"Bearer {key}")]
    answer = guarded.client.post("/v1/sentiment", json=item(), headers=headers)
    assert answer.status_code == 401
    assert "more than one" in answer.json()["detail"]


def test_no_key_in_the_query(guarded: Running) -> None:
    for name in ("key", "token", "access_token", "authorization"):
        assert guarded.client.get("/v1/models", params={name: KEYS[Role.INFER]}).status_code == 401


def test_trailers_bring_no_key(guarded: Running) -> None:
    body = json.dumps(item()).encode()
    with socket.create_connection(guarded.address, timeout=PATIENCE) as client:
        head = b"POST /v1/sentiment HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        trailer = f"authorization: Bearer {KEYS[Role.INFER]}\r\n\r\n".encode()
        client.sendall(head + b"%x\r\n%s\r\n0\r\n" % (len(body), body) + trailer)
        assert client.makefile("rb").read().startswith(b"HTTP/1.1 401")


def test_body_of_a_stranger_is_not_read(guarded: Running) -> None:
    """The answer comes with the first bytes of the request."""
    with socket.create_connection(guarded.address, timeout=PATIENCE) as client:
        client.sendall(b"POST /v1/sentiment HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n{")
        assert client.recv(12) == b"HTTP/1.1 401"


# Rates


def test_rate_over_http(models: Path, keys: Path) -> None:
    with running(Settings(models=models, keys=str(keys))) as server:

        def ask(body: object) -> httpx.Response:
            return server.post("/v1/sentiment", json=body, headers=bearer(SLOW))

        too_many = ask({"items": items(BURST + 1)})
        assert (too_many.status_code, too_many.json()["field"]) == (413, "items")  # and it has cost one
        assert ask({"items": items(3)}).status_code == 200
        refused = ask({"items": items(2)})
        assert refused.status_code == 429  # and this, one: the last
        assert refused.json()["type"] == "urn:wander:error:RateLimited"
        assert int(refused.headers["retry-after"]) >= 1000
        assert ask(item()).status_code == 429
        others = server.post("/v1/sentiment", json={"items": items(9)}, headers=bearer(KEYS[Role.INFER]))
        assert others.status_code == 200
        registry = server.service.metrics.registry
        counted = {
            model: registry.get_sample_value("wander_rejections_total", {"model": model, "reason": "RateLimited"})
            for model in ("mosi", "none")
        }
        assert counted == {"mosi": 1, "none": 1}


def test_refusals_are_counted(guarded: Running) -> None:
    registry = guarded.service.metrics.registry

    def counted(reason: str) -> float:
        return registry.get_sample_value("wander_rejections_total", {"model": "none", "reason": reason}) or 0

    before = counted("Unauthorized"), counted("Forbidden")
    guarded.client.get("/v1/models")
    guarded.client.get("/v1/models", headers=bearer(KEYS[Role.ADMIN]))
    assert (counted("Unauthorized"), counted("Forbidden")) == (before[0] + 1, before[1] + 1)


# Nothing tells a key


def test_no_key_in_logs_errors_or_metrics(
    models: Path, keys: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the lowest level, with a wrong key, with one without the role, and with an error that nobody foresaw."""
    caplog.set_level(logging.DEBUG)
    wrong = "wander_wrong_" + "w" * 40
    told: list[str] = []
    with running(Settings(models=models, keys=str(keys), log_level="debug")) as server:

        async def fail(*_: object) -> None:
            raise RuntimeError("unforeseen")

        monkeypatch.setattr(server.service, "predict", fail)
        for key in (*KEYS.values(), wrong):
            for path in ("/v1/sentiment", "/nothing"):
                answer = server.post(path, json=item(), headers={**bearer(key), "connection": "close"})
                told.append(answer.text + str(answer.headers))
        told.append(server.client.get("/metrics", headers=bearer(KEYS[Role.ADMIN])).text)
        told.append(repr(server.service.settings))
    everything = "".join(told) + caplog.text
    assert "unforeseen" in caplog.text
    for secret in (*KEYS.values(), wrong, SLOW):
        assert secret not in everything


def test_document_says_that_keys_are_needed(guarded: Running, server: Running) -> None:
    document = guarded.client.get("/openapi.json", headers=bearer(KEYS[Role.INFER])).json()
    assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    assert document["security"] == [{"key": []}]
    assert "security" not in server.client.get("/openapi.json").json()


# A server without keys


def test_without_keys_only_admin_is_closed(server: Running, routes: list[tuple[str, str]]) -> None:
    for method, template in {*routes, *TABLE.entries}:
        answer = server.client.request(method, filled(template))
        if TABLE.entries[method, template] == Role.ADMIN:
            assert answer.status_code == 403
            assert "wander keys new NAME --role admin" in answer.text
        else:
            assert answer.status_code not in (401, 403)


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("0.0.0.0", True)])
@pytest.mark.parametrize("with_keys", [True, False])
def test_open_server_says_so_once(
    models: Path, keys: Path, caplog: pytest.LogCaptureFixture, host: str, warned: bool, with_keys: bool
) -> None:
    create_app(Settings(models=models, host=host, keys=str(keys) if with_keys else None))
    lines = [record.getMessage() for record in caplog.records if "--keys" in record.getMessage()]
    assert len(lines) == (warned and not with_keys)


def test_keys_that_cannot_be_read_keep_the_server_from_starting(models: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        create_app(Settings(models=models, keys=str(tmp_path / "absent.json")))


def test_websockets_are_refused(server: Running) -> None:
    with socket.create_connection(server.address, timeout=PATIENCE) as client:
        client.sendall(
            b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: MDEyMzQ1Njc4OTAxMjM0NQ==\r\n\r\n"
        )
        assert not client.recv(12).startswith(b"HTTP/1.1 101")
