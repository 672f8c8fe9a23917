import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.running import run
from tests.serving.building import publish

MAKEFILE = r"""run:
	mkdir -p .venv/bin && touch .venv/installed
	printf '#!/bin/sh\nexit 2\n' > .venv/bin/wander && chmod +x .venv/bin/wander
	{python} -m wander serve {models} --port $(PORT)
"""


def repository(folder: Path, makefile: str) -> Path:
    """A stand-in for this one, which needs nothing to be installed."""
    folder.mkdir()
    (folder / "Makefile").write_text(makefile)
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "t"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


@pytest.fixture
def models(tmp_path: Path) -> Path:
    publish(tmp_path / "models" / "tiny")
    return tmp_path / "models"


def test_from_clone_to_answer(tmp_path: Path, models: Path) -> None:
    source = repository(tmp_path / "source", MAKEFILE.format(python=sys.executable, models=models))
    done = run("first_answer", "--repository", str(source), "--out", str(tmp_path / "out.json"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert [command.split()[0] for command in found["commands"]] == ["git", "make", "curl"]
    assert next(iter(found["seconds"])) == "cloned"
    assert list(found["seconds"])[-1] == "first answer"
    assert {"installed", "serving"} <= set(found["seconds"])
    assert "score" in json.loads(found["answer"])
    assert found["demo"] is None
    assert str(tmp_path) not in json.dumps(found["commands"][:2])


@pytest.mark.parametrize("makefile", ["run:\n\tfalse\n", "run:\n\techo serving on nothing\n"])
def test_a_server_that_never_comes_is_one_line_and_exit_1(tmp_path: Path, makefile: str) -> None:
    done = run("first_answer", "--repository", str(repository(tmp_path / "source", makefile)))
    assert done.returncode == 1
    assert done.stderr.startswith("error: make run ended before it served")
    assert "Traceback" not in done.stderr
