"""A server with the page, in a process of its own, and a browser that looks at it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.demo import moving
from tests.serving.building import Linear, publish

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    " --use-fake-ui-for-media-stream --use-fake-device-for-media-stream"
).split()

Start = Callable[..., str]


@pytest.fixture(scope="package")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for sentiment and one for emotion."""
    folder = tmp_path_factory.mktemp("tiny") / "models"
    publish(folder / "mosi", Linear("sentiment"))
    publish(folder / "iemocap", Linear("emotion"))
    return folder


@pytest.fixture(scope="package")
def shipped(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every task that ships, in one folder: tiny models for features, those of the zoo for pictures."""
    from export.compose import compose
    from export.options import Options
    from export.pipeline import export

    folder = tmp_path_factory.mktemp("demo") / "models"
    shutil.copytree(tiny, folder)
    moving.publish(folder / "clips")
    for name in ("food", "flickr8k-image-text"):
        export(compose(ROOT / "zoo" / name), folder / name, Options())
    return folder


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Starts a command of `wander` and gives the address that it says it serves on."""
    with ExitStack() as stack:

        def begin(*arguments: str | Path, **variables: str) -> str:
            command = [sys.executable, "-m", "wander", *map(str, arguments)]
            environment = {**os.environ, "NO_COLOR": "1", **variables}
            process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
            stack.callback(process.communicate)
            stack.callback(process.terminate)
            watchdog = threading.Timer(PATIENCE, process.kill)
            watchdog.start()
            stack.callback(watchdog.cancel)
            assert process.stderr is not None
            for line in process.stderr:
                if found := re.search(r"(?:serving|demonstration) on (http://[^\s/]+)", line):
                    watchdog.cancel()
                    threading.Thread(target=process.stderr.read, daemon=True).start()
                    return found[1]
            raise AssertionError(f"{' '.join(command)} did not serve")

        yield begin


class Visit:
    """A page of a browser, and what it complained of.

    Attributes:
        complaints: of policy, scripts and requests that failed.
        strangers: addresses that it asked elsewhere.
    """

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url = page, url
        self.complaints: list[str] = []
        self.strangers: list[str] = []
        page.set_default_timeout(20_000)
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._asked)
        self._answers = 0
        page.on("requestfinished", self._answered)
        page.on("requestfailed", self._answered)
        page.goto(f"{url}/demo")
        page.get_by_role("tab").first.wait_for()

    def _said(self, message: Any) -> None:
        if message.type == "error":
            self.complaints.append(f"{message.text} {message.location}")

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((f"{self.url}/", "data:", f"blob:{self.url}/")):
            self.strangers.append(request.url)

    def _answered(self, request: Any) -> None:
        """A stream of answers ends when the last one that is due has come."""
        self._answers += "/queue/data" in request.url

    def tab(self, title: str) -> None:
        self.page.get_by_role("tab", name=title, exact=True).click()

    def press(self, name: str) -> None:
        """A button that can be seen; waits for the answer of the server."""
        before, until = self._answers, time.monotonic() + PATIENCE
        self.page.get_by_role("button", name=name, exact=True).and_(self.page.locator(":visible")).click()
        self.answered(before, until)

    def answered(self, before: int, until: float) -> None:
        while self._answers == before:
            assert time.monotonic() < until, "no answer came"
            self.page.wait_for_timeout(20)
        self.page.wait_for_timeout(150)  # and is shown

    @property
    def answers(self) -> int:
        """How many have come."""
        return self._answers

    def clear(self) -> None:
        """Takes the first file of the tab away."""
        self.page.get_by_label("Clear").and_(self.page.locator(":visible")).first.click()

    def seen(self, selector: str) -> Any:
        found = self.page.locator(selector).and_(self.page.locator(":visible")).first
        found.wait_for()
        return found

    def holds(self, stem: str) -> None:
        """Waits until the first file of the tab has this name."""
        inside = self.page.locator("[role=tabpanel]:visible .file-preview .stem")
        inside.filter(has_text=stem).first.wait_for()

    def upload(self, path: Path) -> None:
        self.page.locator("[role=tabpanel]:visible input[type=file]").first.set_input_files(str(path))
        self.holds(path.stem)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("there is no chromium here; apt-get install chromium brings one")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield opened
        opened.close()
