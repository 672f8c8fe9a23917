"""From nothing to the first answered request, and on to the demo in a browser, as a new user types it.

    python -m benchmarks.first_answer [--repository URL] [--out benchmarks/results/first_answer.json]

In an empty folder: `git clone`, `make run`, and the first `curl` line that the server prints. The clock starts before
the first command and never stops. Packages come from the index that pip is configured for, and may be in its cache.
With a command `demo` in what was cloned, a fourth command starts it beside the server, and the clock goes on until a
tab of its page is seen in a browser; without a browser, until the page is answered, and the report says so.
"""

from __future__ import annotations

import http.client
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from benchmarks.results import circumstances, publish, table

LIMIT_S = 1800.0
SERVING = re.compile(r"serving on (http://\S+)")


class Failed(Exception):
    """A command ended otherwise than it should, or too late."""


@dataclass
class Journey:
    """Commands in their order, and when what was reached: seconds after the start."""

    started: float = field(default_factory=time.time)
    commands: list[str] = field(default_factory=list)
    reached: dict[str, float] = field(default_factory=dict)

    def reach(self, what: str, at: float | None = None) -> None:
        self.reached[what] = (time.time() if at is None else at) - self.started


def clone(journey: Journey, repository: str, folder: Path) -> Path:
    journey.commands.append(f"git clone {repository} wander")
    target = folder / "wander"
    done = subprocess.run(["git", "clone", "--quiet", repository, target], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"git clone: {done.stderr.strip()}")
    journey.reach("cloned")
    return target


@contextmanager
def serving(journey: Journey, project: Path, environment: dict[str, str]) -> Iterator[tuple[str, str]]:
    """`make run`, until it serves: its address and the first line with `curl` that it prints. Ends it afterwards."""
    journey.commands.append("make run")
    port = free_port()
    process = subprocess.Popen(
        ["make", "run", f"PORT={port}"], cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    watchdog = threading.Timer(LIMIT_S, process.terminate)
    watchdog.start()
    try:
        yield _announced(journey, project, process)
    finally:
        watchdog.cancel()
        with suppress(ProcessLookupError):  # make and the server are one group, which is ours alone
            os.killpg(process.pid, 15)
        process.communicate()


def _announced(journey: Journey, project: Path, process: subprocess.Popen[str]) -> tuple[str, str]:
    assert process.stdout is not None
    said, url = [], ""
    for line in process.stdout:
        said.append(line)
        if found := SERVING.search(line):
            url = found[1]
            journey.reach("serving")
        elif url and line.strip().startswith("curl"):
            threading.Thread(target=process.stdout.read, daemon=True).start()
            for what, pattern in (("installed", ".venv/installed"), ("exported", "models/*/1/manifest.json")):
                if times := [path.stat().st_mtime for path in project.glob(pattern)]:
                    journey.reach(what, max(times))
            return url, line.strip()
    raise Failed(f"make run ended before it served: {''.join(said[-5:]).strip()}")


def ask(journey: Journey, project: Path, line: str) -> str:
    """The printed line, as it is. Raises Failed for anything but an answer."""
    journey.commands.append(f"{line.split(' -H ')[0]} ...")
    command = line.replace("curl -s", "curl -s --fail-with-body", 1)
    done = subprocess.run(["bash", "-c", command], cwd=project, capture_output=True, text=True, check=False)
    if done.returncode or '"timing"' not in done.stdout:
        raise Failed(f"the first request was not answered: {done.stdout or done.stderr}")
    journey.reach("first answer")
    return done.stdout


def demo(journey: Journey, project: Path, url: str, environment: dict[str, str]) -> str | None:
    """Starts the demo beside the server. Returns what was seen, or None if there is no such command."""
    wander = project / ".venv" / "bin" / "wander"
    if subprocess.run([wander, "demo", "--help"], env=environment, capture_output=True, check=False).returncode:
        return None
    journey.commands.append(f"wander demo --url {url}")
    port = free_port()
    process = subprocess.Popen([wander, "demo", "--url", url, "--port", str(port)], env=environment, cwd=project)
    try:
        address = f"http://127.0.0.1:{port}/"
        _wait(lambda: _answers(address) is not None, process)
        seen = _in_a_browser(address)
        journey.reach("demo in the browser" if seen else "demo page answered")
        return seen or "the page was answered; there is no browser here"
    finally:
        process.terminate()
        process.wait()


def _in_a_browser(address: str) -> str | None:
    """Waits for a tab of the page. Returns what it is called, or None without a browser."""
    program = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if program is None:
        return None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(address)
        tab = page.get_by_role("tab").first
        tab.wait_for(timeout=60_000)
        name = f"the tab {tab.inner_text()!r}"
        browser.close()
    return name


def _answers(address: str) -> int | None:
    """The status of a page below 400; None if it is not answered so."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=10)
    try:
        connection.request("GET", parts.path)
        status = connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()
    return status if status < 400 else None


def _wait(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + LIMIT_S
    while not condition():
        if process.poll() is not None or time.monotonic() > until:
            raise Failed("the demo ended before it answered")
        time.sleep(0.05)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def main(
    repository: Annotated[str, typer.Option(help="What is cloned.")] = ".",
    out: Annotated[Path | None, typer.Option(help="Write the report here, as .json and as .md.")] = None,
) -> None:
    """Seconds from an empty folder to the first answer, and the commands it took."""
    about = circumstances("benchmarks.first_answer", ())
    source = str(Path(repository).resolve()) if Path(repository).exists() else repository
    # The environment that this script runs in must not help: a new user has none.
    environment = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH", "MAKEFLAGS")}
    with tempfile.TemporaryDirectory(prefix="first-answer-") as folder:
        journey = Journey()
        try:
            project = clone(journey, source, Path(folder))
            with serving(journey, project, environment) as (url, line):
                answer = ask(journey, project, line)
                commands = len(journey.commands)
                seen = demo(journey, project, url, environment)
        except Failed as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from None
    told = [command.replace(source, "REPOSITORY").replace(folder, "") for command in journey.commands]
    ordered = sorted(journey.reached.items(), key=lambda item: item[1])
    body = [
        f"{commands} commands to the first answer: " + ", ".join(f"`{command}`" for command in told[:commands]) + ".",
        table(["reached", "seconds after the start"], [[what, f"{seconds:.1f}"] for what, seconds in ordered]),
        "Packages come from the index that pip is configured for here, and may be in its cache.",
        f"Demo, one command more: {seen}." if seen else "What was cloned has no command `demo`.",
    ]
    data = {"commands": told, "seconds": dict(ordered), "answer": answer, "demo": seen}
    publish("From clone to first answer", about, body, data, out)


if __name__ == "__main__":
    typer.run(main)
