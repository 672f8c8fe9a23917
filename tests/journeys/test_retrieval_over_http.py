"""Pictures become an index, which is searched by words and by pictures, and outlives its server's sudden death."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.serving.index.colours import picture, publish, registered

COLOURS = {"red": (240, 20, 20), "green": (20, 240, 20), "blue": (20, 20, 240)}
PATIENCE = 60

Serve = Callable[[], tuple[str, int]]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts a server of a tiny model on the index folder of the test; gives its address and process."""
    with registered():
        publish(tmp_path / "models" / "colours")
    with ExitStack() as stack:

        def start() -> tuple[str, int]:
            command = [sys.executable, "-m", "tests.serving.index.colours", "serve", str(tmp_path / "models")]
            command += ["--port", "0", "--indexes", str(tmp_path / "indexes")]
            process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            stack.callback(process.communicate, timeout=PATIENCE)
            stack.callback(process.terminate)
            assert process.stderr is not None
            for line in process.stderr:
                if found := re.search(r"serving on (http://\S+)", line):
                    return found[1], process.pid
            raise AssertionError("the server did not start")

        yield start


def wander(*arguments: object) -> str:
    command = [sys.executable, "-m", "wander", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout


def test_pictures_to_an_index_and_back(serve: Serve, tmp_path: Path) -> None:
    for name, colour in COLOURS.items():
        (tmp_path / f"{name}.png").write_bytes(picture(*colour))
    url, process = serve()
    added = json.loads(wander("index", "add", "photos", *tmp_path.glob("*.png"), "--url", url, "--json"))
    assert added == {"index": "photos", "added": 3, "failed": []}

    os.kill(process, signal.SIGKILL)
    url, _ = serve()
    for name in COLOURS:
        by_words = json.loads(wander("index", "search", "photos", name, "--url", url, "--json"))
        by_image = json.loads(
            wander("index", "search", "photos", "--image", tmp_path / f"{name}.png", "--url", url, "--json")
        )
        for found in (by_words, by_image):
            assert found["hits"][0]["id"] == f"{name}.png"
            assert (found["mode"], found["model"], found["version"]) == ("exact", "colours", "1")
    assert "photos" in wander("index", "list", "--url", url)
