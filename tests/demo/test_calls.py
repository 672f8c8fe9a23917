"""What can be pasted does what was asked: the lines run in a shell and in Python, beside the files that they name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demo.calls import INLINE, Asked, Pasted
from serving.client import Client
from serving.settings import Settings
from tests.serving.building import KEY, KEYS, Running, item, random_rows, running


@pytest.fixture(scope="module")
def guarded(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(Settings(models=tiny, indexes=tmp_path_factory.mktemp("indexes"), keys=KEYS)) as started:
        yield started


def pasted(server: Running, *calls: Asked, keyed: bool = True) -> Pasted:
    return Pasted(str(server.client.base_url).rstrip("/"), keyed, calls)


def run(lines: Pasted, folder: Path) -> tuple[list[Any], list[Any]]:
    """What the shell prints, and what Python prints, with the key in the environment."""
    texts = lines.curl(), lines.python()
    for name, content in lines.files.items():
        (folder / name).write_bytes(content)
    environment = {**os.environ, "WANDER_KEY": KEY, "NO_PROXY": "127.0.0.1"}
    options: dict[str, Any] = {"cwd": folder, "env": environment, "check": True, "capture_output": True, "text": True}
    shell = [subprocess.run(["bash", "-c", one], **options).stdout for one in texts[0].split("\n\n")]
    python = subprocess.run([sys.executable, "-c", texts[1]], **options).stdout
    return [json.loads(one) for one in shell], [eval(one) for one in python.splitlines()]  # noqa: S307  our own print


def without_time(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "timing"}


@pytest.mark.parametrize("kind", ["lists", "arrays"])
def test_features(guarded: Running, tmp_path: Path, kind: str) -> None:
    given: dict[str, Any] = dict(item(3)) if kind == "lists" else {n: a[0] for n, a in random_rows(1, 3).items()}
    asked = Asked("predict", "sentiment", given, model="mosi")
    with Client(str(guarded.client.base_url), api_key=KEY) as client:
        answer = asked.send(client)
    (shell,), (python,) = run(pasted(guarded, asked), tmp_path)
    assert without_time(shell) == without_time(python) == without_time(answer)
    assert "score" in answer


def test_long_items_are_files(guarded: Running) -> None:
    long = {"text": np.zeros((3, 400)).tolist()}
    lines = pasted(guarded, Asked("predict", "sentiment", long, model="mosi"))
    assert "@item.json" in lines.curl()
    assert "item.json" in lines.python()
    assert len(lines.curl()) < INLINE
    assert json.loads(lines.files["item.json"]) == long


def test_no_line_holds_the_key(guarded: Running) -> None:
    lines = pasted(guarded, Asked("models"))
    assert KEY not in lines.curl() + lines.python()
    assert "$WANDER_KEY" in lines.curl()
    open_lines = pasted(guarded, Asked("models"), keyed=False)
    assert "WANDER_KEY" not in open_lines.curl() + open_lines.python()


@pytest.mark.parametrize("text", ['it\'s $HOME `id` "x" \\ !', "@/etc/passwd", "<b>", "a\nb", "; rm -rf x", "'''"])
def test_a_shell_changes_nothing_of_what_is_sent(guarded: Running, tmp_path: Path, text: str) -> None:
    """The server refuses the text as it stands, and says so: it came through as it was."""
    picture = tmp_path / "it's a picture.png"
    picture.write_bytes(b"no picture")
    form = Asked("predict", "food", {"image": picture, "text": text}, model=None)
    body = pasted(guarded, form).curl()
    script = body.replace("curl -s", "printf '%s\\0'")
    printed = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.split("\0")
    assert f"text={text}" in printed
    assert "image=@it's a picture.png" in printed


def test_files_of_one_name_are_kept_apart(guarded: Running, tmp_path: Path) -> None:
    paths = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        paths.append(folder / "dish.jpg")
        paths[-1].write_bytes(bytes([number]))
    lines = pasted(guarded, *(Asked("predict", "food", {"image": path}) for path in paths))
    assert "@dish.jpg" in lines.curl()
    assert "@2-dish.jpg" in lines.curl()
    assert "2-dish.jpg" in lines.python()
    assert lines.files == {"dish.jpg": b"\0", "2-dish.jpg": b"\1"}
