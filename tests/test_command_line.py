"""The command line as a person meets it: help, errors in one line, exit codes, JSON, and rooms that stay closed."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.export.conftest import write_checkpoint

COMMANDS = sorted(entry_points(group="wander.commands").names)


def wander(*arguments: object, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wander", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **more)


def test_help_lists_every_command() -> None:
    done = wander("--help")
    assert done.returncode == 0
    for name in COMMANDS:
        assert name in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    done = wander(name, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout
    assert done.stderr == ""


def test_the_version_is_printed() -> None:
    assert wander("--version").stdout.strip() == "0.1.0"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["inspect", "nowhere"], 2, "error: nowhere does not exist"),
        (["convert", "nowhere", "out"], 1, "error: "),
        (["verify", "nowhere"], 1, "is no bundle"),
        (["serve", "nowhere", "--port", "0"], 1, "error: nowhere holds no models"),
        (["predict", "nowhere"], 1, "is no bundle"),
        (["export"], 2, "Missing argument"),
        (["nonsense"], 2, "No such command"),
        (["serve", "x", "--port", "99999999"], 2, "port"),
    ],
)
def test_errors_are_one_line_and_have_their_code(arguments: list[str], code: int, message: str, tmp_path: Path) -> None:
    done = wander(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_package_that_is_not_installed_is_named_with_its_extra(tmp_path: Path) -> None:
    """As on a machine that only serves: safetensors is hidden from the process."""
    code = (
        "import sys; sys.modules['safetensors'] = None\n"
        "from wander.__main__ import main; main(['convert', 'a.pt', 'out'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: safetensors is not installed; run: pip install 'wander[export]'\n"


def test_debug_shows_the_traceback_before_or_after_the_command() -> None:
    for arguments in (["--debug", "verify", "nowhere"], ["verify", "nowhere", "--debug"]):
        done = wander(*arguments)
        assert done.returncode == 1
        assert "Traceback" in done.stderr


def test_json_is_one_object_on_stdout(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "out")
    done = wander("inspect", checkpoint, "--json")
    assert json.loads(done.stdout)["kind"] == "adapter"
    assert done.stdout.count("\n") == 1
    assert "backbone_parameters" in wander("inspect", checkpoint).stdout


def test_a_command_imports_its_own_room_alone() -> None:
    """`wander serve` never imports what export needs."""
    check = (
        "import sys; from wander.__main__ import main\n"
        "try: main(['serve', '--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'onnx', 'export', 'wander.training', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
