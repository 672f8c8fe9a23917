"""The lines by which a person indexes the real clips and finds one by a sentence: those of the card, as they stand."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.oracles import SHARED

ROOT = Path(__file__).parents[2]
CARD = ROOT / "zoo" / "clips-text-video" / "README.md"
CLIPS = SHARED / "data" / "video_clips"
PATIENCE = 120

pytestmark = pytest.mark.skipif(
    not CLIPS.is_dir(), reason="the folder shared/data/video_clips is not beside the project"
)


def lines() -> list[str]:
    """Of the first shell block."""
    found = re.search(r"```sh\n(.*?)```", CARD.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return [line.partition("  #")[0].strip() for line in found[1].splitlines() if line.strip()]


@contextmanager
def serving(line: str, place: Path, env: dict[str, str]) -> Iterator[None]:
    """The line that serves, until the end; goes on when the server says that it serves."""
    with subprocess.Popen(line.split(), cwd=place, env=env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = iter(process.stderr)
        assert any("serving on" in text for text in said)
        try:
            yield
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE)


@pytest.mark.slow
def test_the_lines_of_the_card_run_as_they_stand(tmp_path: Path) -> None:
    place = tmp_path / "project"
    place.mkdir()
    (place / "zoo").symlink_to(ROOT / "zoo")
    (tmp_path / "shared").symlink_to(SHARED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "WANDER_PORT": port, "WANDER_URL": f"http://127.0.0.1:{port}", "COLUMNS": "200"}
    said: list[str] = []
    assert len(lines()) == 5
    with ExitStack() as stack:
        for line in lines():
            if line.startswith("wander serve"):
                stack.enter_context(serving(line.removesuffix("&").strip(), place, env))
                continue
            if line.startswith("curl") and shutil.which("curl") is None:
                continue
            line = line.replace("localhost:8000", f"localhost:{port}")
            done = subprocess.run(
                ["bash", "-c", line], cwd=place, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            said.append(done.stdout)
    _, added, found, *embedded = said
    assert "11 items added to clips" in added
    assert len(re.findall(r"\.(?:mp4|avi)", found)) == 3
    assert all('"modality":"video"' in one for one in embedded)
