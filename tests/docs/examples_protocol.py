"""The example of a protocol on a real server. Run by `test_examples.py`, in a process that has it registered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.auth import access
from serving.protocols import protocols
from serving.settings import Settings
from tests.serving.building import KEYS, Linear, Running, item, publish, running


@pytest.fixture
def models(tmp_path: Path) -> Path:
    publish(tmp_path / "models" / "mosi", Linear())
    return tmp_path / "models"


@pytest.fixture
def server(models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setitem(access.HTTP, ("POST", "/predictions/{model}"), access.INFER)
    with running(Settings(models=models)) as started:
        yield started


def test_it_answers_as_our_own_protocol_does(server: Running) -> None:
    assert "predictions" in protocols.names()
    answer = server.post("/predictions/mosi", json=item())
    assert answer.status_code == 200
    ours = server.post("/v1/sentiment", json=item()).json()
    assert answer.json() == {name: ours[name] for name in answer.json()}


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/predictions/nobody", b"{}", 404, "NotFound"),
        ("/predictions/mosi", b"{", 400, "MalformedBody"),
        ("/predictions/mosi", b"[]", 400, "MalformedBody"),
        ("/predictions/mosi", b"{}", 422, "InputError"),
    ],
)
def test_errors_have_its_form(server: Running, path: str, body: bytes, status: int, kind: str) -> None:
    answer = server.post(path, content=body)
    assert answer.status_code == status
    assert answer.json()["code"] == status
    assert answer.json()["type"] == kind


def test_a_route_without_an_entry_is_for_admins_alone(models: Path) -> None:
    with running(Settings(models=models)) as anonymous:
        assert anonymous.post("/predictions/mosi", json=item()).status_code == 404
    with running(Settings(models=models, keys=KEYS)) as keyed:
        assert keyed.post("/predictions/mosi", json=item()).status_code == 200
