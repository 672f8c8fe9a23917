"""The worked examples of `docs/extending.md` pass the conformance suites, as a new file in its folder would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.registering import EXAMPLES, PACKAGES

ROOT = Path(__file__).parents[2]
PLUGINS = {path.stem: path.parent.name for path in sorted(EXAMPLES.glob("*/*.py"))}
SUITES = {
    "adapters": ("test_adapters.py", 4),
    "backbones": ("test_hosts.py", 6),
    "engines": ("test_engines.py", 20),
    "tasks": ("test_tasks.py", 15),
}
"""Folder -> conformance suite, and how many of its tests there are for one plug-in, at least."""


def in_a_process_of_its_own(*arguments: str) -> str:
    """Pytest, with the examples registered before anything is collected."""
    command = [sys.executable, "-m", "pytest", "-p", "tests.docs.registering", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_there_is_one_for_every_kind_of_plug_in() -> None:
    assert set(PLUGINS.values()) == set(PACKAGES)


@pytest.mark.parametrize("name", [name for name, folder in PLUGINS.items() if folder in SUITES])
def test_it_passes_the_conformance_suite(name: str) -> None:
    suite, least = SUITES[PLUGINS[name]]
    said = in_a_process_of_its_own(f"tests/conformance/{suite}", "-k", name, "-rs", "-v", "-o", "addopts=")
    assert said.count(" PASSED") >= least, said
    assert " SKIPPED" not in said, said


def test_the_protocol_serves() -> None:
    in_a_process_of_its_own(str(Path(__file__).with_name("examples_protocol.py")))


def test_the_examples_are_linted_and_typed_like_everything_else() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", str(EXAMPLES)], capture_output=True, text=True, check=False
    )
    if "No module named ruff" in done.stderr:
        pytest.skip("ruff is not installed as a module here")
    assert done.returncode == 0, done.stdout
