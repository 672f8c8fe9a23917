"""KServe v2 from both clients to a real server."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.client import Client
from serving.settings import Settings
from tests.serving.building import KEY, KEYS, Linear, Running, publish, random_rows, running
from tests.serving.client.conftest import Connect
from wander.errors import (
    DeadlineExceeded,
    Forbidden,
    InputError,
    MalformedBody,
    NotFound,
    NotReady,
    Overloaded,
    ServiceError,
)

ROWS = random_rows(5)
SCORES = Linear("sentiment")(ROWS)["score"]


@pytest.mark.parametrize("options", [{}, {"binary": False}, {"outputs": ["score"]}, {"outputs": [], "version": "1"}])
def test_infer(client: Client, options: dict[str, Any]) -> None:
    found = client.infer("mosi", ROWS, **options)
    assert list(found) == ["score"]
    assert found["score"].dtype == np.float32
    assert found["score"].tolist() == client.infer("mosi", ROWS)["score"].tolist()
    np.testing.assert_allclose(found["score"], SCORES, atol=1e-5)


def test_infer_equals_predict(client: Client) -> None:
    many = [{name: array[row] for name, array in ROWS.items()} for row in range(5)]
    answers = client.predict_many("sentiment", many)
    found = client.infer("mosi", ROWS, parameters={"adapter": "linear"}, request_id="7", timeout_ms=20_000)
    assert [answer["score"] for answer in answers if isinstance(answer, dict)] == found["score"][:, 0].tolist()


def test_every_graph_of_a_bundle(client: Client) -> None:
    given = {"colours": np.array([[0, 3, 4]], np.float32)}
    for tower in ("image", "text"):
        np.testing.assert_allclose(client.infer(f"colours-{tower}", given)["embedding"], [[0, 0.6, 0.8]], atol=1e-6)


@pytest.mark.parametrize(
    ("model", "inputs", "options", "kind"),
    [
        ("nobody", ROWS, {}, NotFound),
        ("../models/mosi", ROWS, {}, NotFound),
        ("mosi", ROWS, {"version": "9"}, NotFound),
        ("mosi", ROWS, {"parameters": {"adapter": "other"}}, NotFound),
        ("mosi", {}, {}, InputError),
        ("mosi", {**ROWS, "text": ROWS["text"].astype(np.float64)}, {}, InputError),
        ("mosi", {**ROWS, "text": ROWS["text"][:, :1]}, {}, InputError),
        ("mosi", ROWS, {"outputs": ["nothing"]}, ServiceError),
        ("mosi", {**ROWS, "text": np.array(["a"])}, {}, InputError),
        ("mosi", {**ROWS, "text": ROWS["text"] * math.nan}, {"binary": False}, InputError),
    ],
)
def test_errors(client: Client, model: str, inputs: Any, options: dict[str, Any], kind: type[ServiceError]) -> None:
    with pytest.raises(kind):
        client.infer(model, inputs, **options)


@pytest.mark.parametrize("kind", [MalformedBody, Overloaded, NotReady, DeadlineExceeded])
def test_errors_of_the_service_arrive_as_they_were(
    server: Running, client: Client, monkeypatch: pytest.MonkeyPatch, kind: type[ServiceError]
) -> None:
    async def fail(*_: object, **__: object) -> None:
        error = kind("this is why")
        if isinstance(error, Overloaded | NotReady):
            error.retry_after = 7.0
        raise error

    monkeypatch.setattr(server.service, "infer", fail)
    with pytest.raises(kind, match="this is why") as caught:
        client.infer("mosi", ROWS, timeout_ms=5000)
    assert type(caught.value) is kind
    assert getattr(caught.value, "retry_after", 7.0) == 7.0


def test_what_is_told_of_models(client: Client) -> None:
    assert "binary_tensor_data" in client.server_metadata()["extensions"]
    for version in (None, "1"):
        told = client.model_metadata("mosi", version=version)
        assert [(one["name"], one["datatype"]) for one in told["inputs"]] == [(name, "FP32") for name in ROWS]
        assert client.model_ready("mosi", version=version) is True
        (counted,) = client.statistics("mosi", version=version)
        assert counted["name"] == "mosi"
    assert {one["name"] for one in client.statistics()} == {"mosi", "colours-image", "colours-text"}
    for ask in (client.model_metadata, client.model_ready, client.statistics):
        with pytest.raises(NotFound):
            ask("nobody")


def test_control_that_is_not_allowed(client: Client) -> None:
    with pytest.raises(Forbidden):
        client.unload("mosi")
    assert client.model_ready("mosi")


@pytest.fixture(scope="module")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server whose models are loaded on demand, and their folder."""
    models = tmp_path_factory.mktemp("controlled")
    publish(models / "mosi", Linear("sentiment"))
    settings = Settings(
        models=models, indexes=tmp_path_factory.mktemp("indexes"), model_control="explicit", load="mosi", keys=KEYS
    )
    with running(settings) as started:
        yield str(started.client.base_url), models


def test_control(controlled: tuple[str, Path], connect: Connect) -> None:
    url, models = controlled
    client = connect(url, api_key=KEY)

    def states() -> dict[str, str]:
        return {one["version"]: one["state"] for one in client.repository() if one["name"] == "mosi"}

    client.load("mosi", version="1")
    assert states()["1"] == "READY"
    latest = publish(models / "mosi", Linear("sentiment", seed=3))[0].path.name
    client.load("mosi", timeout_ms=30_000)
    assert states()[latest] == "READY"
    assert {one["version"] for one in client.repository(ready=True)} >= {latest}
    np.testing.assert_allclose(
        client.infer("mosi", ROWS)["score"], Linear("sentiment", seed=3)(ROWS)["score"], atol=1e-5
    )
    client.unload("mosi")
    assert client.repository(ready=True) == []
    with pytest.raises(ServiceError):
        client.infer("mosi", ROWS)
    for name in ("nobody", "..", "a/b"):
        with pytest.raises(ServiceError):
            client.load(name)
