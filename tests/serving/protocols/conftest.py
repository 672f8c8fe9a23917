"""A server with models of every dtype and one with two towers, which can be loaded and unloaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.settings import Settings
from tests.serving.building import Linear, Running, publish, running
from tests.serving.index import colours
from tests.serving.protocols import echo
from tests.serving.protocols.keys import KEYS, bearer


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`mosi` in two versions, `colours` with the towers `image` and `text`, and `echo-<dtype>`."""
    with colours.registered():
        folder = tmp_path_factory.mktemp("protocols") / "models"
        publish(folder / "mosi", Linear("sentiment", seed=1))
        publish(folder / "mosi", Linear("sentiment"))
        (folder / "mosi" / "aliases.json").write_text('{"old": "1"}')
        colours.publish(folder / "colours", gain=2)
        for dtype in echo.KINDS:
            echo.publish(folder / f"echo-{dtype}", dtype)
        yield folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    with running(Settings(models=folder, model_control="explicit", max_body_bytes=1 << 20, grpc_port=0)) as started:
        yield started


@pytest.fixture(scope="module")
def keyed(folder: Path) -> Iterator[Running]:
    """A server with keys, of which its client sends the one that may do everything."""
    with running(Settings(models=folder, model_control="explicit", keys=KEYS, grpc_port=0)) as started:
        started.client.headers.update(bearer())
        yield started
