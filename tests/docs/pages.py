"""Pages as their blocks of code, and what runs them in order, in a folder of their own.

    ```sh       run by bash; stops at the first command that fails, a request that is refused included. A line that
                begins with `wander serve` starts a server that stays until the next one, or the end of the page
    ```python   run by Python
    ```json, ```yaml    read; ```text, ```mermaid    are no code

A comment before a block says otherwise:

    <!-- not run: WHY -->       neither run nor read
    <!-- printed -->            the block is what the block before it prints, to the letter: standard error
                                too, but for the server's log
    <!-- file: NAME -->         the block becomes a file, for the blocks after it
    <!-- after: COMMAND -->     the server of that command runs already

Port 8000 in a block is a free port here.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PATIENCE = 120
BLOCK = re.compile(r"(?:^<!-- *(?P<note>[^>]*?) *-->\n\s*)?^```(?P<kind>\w*)[^\n]*\n(?P<text>.*?)^```$", re.M | re.S)
SNIPPET = re.compile(r'--8<-- "(docs/examples/[\w/.]+)"')
SERVE = re.compile(r"^wander (serve|demo)\b")
LOG = re.compile(r"^\d{4}-\d\d-\d\d .*\n", re.M)
READY = re.compile(r"^(serving|demonstration) on http")
NO_CODE = ("text", "mermaid")
STRICT_CURL = 'curl() { command curl --fail-with-body "$@"; }; '


@dataclass(frozen=True)
class Block:
    """`note` is the comment before it, if it says something about the block; `line` is where it begins."""

    page: Path
    line: int
    kind: str
    text: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    return [
        Block(page, text.count("\n", 0, match.start("kind")) + 1, match["kind"], match["text"], match["note"] or "")
        for match in BLOCK.finditer(text)
    ]


def why_not_run(block: Block) -> str | None:
    """What the page says of a block that is not run."""
    found = re.fullmatch(r"not run: (.+)", block.note, re.S)
    return found[1] if found else None


class Runner:
    """Runs the blocks of one page.

    Args:
        folder: where they run; files are made here.
        given: Python that stands before every block of it: names that the page takes as known.
    """

    def __init__(self, folder: Path, given: str = "") -> None:
        self.folder, self.given = folder, given
        self.printed = ""
        self._servers: list[tuple[subprocess.Popen[str], threading.Thread]] = []
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = str(free.getsockname()[1])
        scripts = folder / ".bin"
        scripts.mkdir(exist_ok=True)
        for name, module in (("wander", "-m wander"), ("python", "")):
            (scripts / name).write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
            (scripts / name).chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDER_")}
        path = f"{scripts}:{kept['PATH']}"
        self.environment = {**kept, "PATH": path, "NO_COLOR": "1", "COLUMNS": "160", "no_proxy": "*"}

    def run(self, block: Block, following: Block | None) -> None:
        """Raises AssertionError, with the place and what was printed, for a block that fails."""
        if (name := block.note.removeprefix("file: ")) != block.note:
            (self.folder / name).write_text(self._here(block.text), encoding="utf-8")
        elif why_not_run(block) or block.kind in NO_CODE or block.note == "printed":
            return
        elif block.kind == "json":
            json.loads(block.text)
        elif block.kind == "yaml":
            list(yaml.safe_load_all(block.text))
        elif block.kind == "python":
            if not SNIPPET.search(block.text):  # those have tests of their own
                self._finish(block, [sys.executable, "-c", f"{self.given}\n{self._here(block.text)}"], "")
        else:
            assert block.kind == "sh", (
                f"{block}: a block of kind {block.kind!r} needs a note that says why it is not run"
            )
            self._shell(block, following)

    def _shell(self, block: Block, following: Block | None) -> None:
        told = following is not None and following.note == "printed"
        if (command := block.note.removeprefix("after: ")) != block.note:
            self._serve(block, command)
        lines: list[str] = []
        for line in re.sub(r"\\\n\s*", "", self._here(block.text)).splitlines():
            if SERVE.match(line) and not told:
                self._script(block, lines, told)
                lines = []
                self._serve(block, line.partition("  #")[0])
            else:
                lines.append(line)
        self._script(block, lines, told)
        if told and following is not None:
            said = LOG.sub("", self.printed).replace(self.port, "8000").replace(f"{self.folder}/", "")
            assert said.strip() == following.text.strip(), f"{following} says otherwise: {said}"

    def _script(self, block: Block, lines: list[str], told: bool) -> None:
        """What a page shows the output of may fail, and is not told to be strict about requests that are refused."""
        if any(lines):
            strict = "" if told else STRICT_CURL
            self._finish(block, ["bash", "-uo" if told else "-euo", "pipefail", "-c", strict + "\n".join(lines)], told)

    def _finish(self, block: Block, command: list[str], told: bool | str) -> None:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=PATIENCE, check=False,
        )  # fmt: skip
        self.printed = done.stdout
        assert told or done.returncode == 0, f"{block} ends with {done.returncode}:\n{done.stdout}"

    def _serve(self, block: Block, line: str) -> None:
        """Starts a server in place of the one before, or, if it is one for another's `--url`, beside it."""
        beside = "--url" in line
        if not beside:
            self.stop()
        if "--port" not in line:
            line += f" --port {0 if beside else self.port}"
        server = subprocess.Popen(
            ["bash", "-c", f"exec {line}"], cwd=self.folder, env=self.environment, stderr=subprocess.PIPE, text=True
        )
        watchdog = threading.Timer(PATIENCE, server.kill)
        watchdog.start()
        said: list[str] = []
        assert server.stderr is not None
        for text in server.stderr:
            said.append(text)
            if ready := READY.search(text):
                break
        else:
            ready = None
        watchdog.cancel()
        rest = threading.Thread(target=server.stderr.read)
        rest.start()
        self._servers.append((server, rest))
        assert ready, f"{block}: the server does not start:\n{''.join(said)}"

    def _here(self, text: str) -> str:
        return re.sub(r"\b8000\b", self.port, text)

    def stop(self) -> None:
        while self._servers:
            server, rest = self._servers.pop()
            server.terminate()
            rest.join(PATIENCE)
            server.communicate(timeout=PATIENCE)


@contextmanager
def running(folder: Path, given: str = "") -> Iterator[Runner]:
    with ExitStack() as stack:
        runner = Runner(folder, given)
        stack.callback(runner.stop)
        yield runner
