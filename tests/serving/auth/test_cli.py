"""`wander keys new`."""

from __future__ import annotations

import json
import tomllib

import pytest
import typer

from serving.auth import Role, read_keys
from serving.auth.cli import app
from tests.test_architecture import ROOT
from wander.errors import UsageError


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        typer.main.get_command(app).main(["new", *arguments], prog_name="wander keys")
    return int(ended.value.code or 0)


def test_new_key_is_one_that_a_server_takes(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("alice", "--role", "infer", "--role", "index-write", "--rate", "2.5", "--burst", "7", "--json") == 0
    made = json.loads(capfd.readouterr().out)
    principal = read_keys(json.dumps([made["entry"]])).identify(f"Bearer {made['key']}")
    assert principal.name == "alice"
    assert principal.roles == {Role.INFER, Role.INDEX_WRITE}
    assert principal.bucket is not None
    assert (principal.bucket.rate, principal.bucket.burst) == (2.5, 7)
    assert made["key"] not in json.dumps(made["entry"])


def test_no_two_are_the_same_and_they_are_long(capfd: pytest.CaptureFixture[str]) -> None:
    keys = set()
    for _ in range(5):
        assert run("bob", "--role", "admin", "--json") == 0
        keys.add(json.loads(capfd.readouterr().out)["key"])
    assert len(keys) == 5
    assert all(len(key.removeprefix("wander_")) == 43 for key in keys)  # 256 bits in base64


def test_for_people(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("carol", "--role", "infer") == 0
    lines = [line.strip() for line in capfd.readouterr().out.splitlines()]
    assert read_keys(f"[{lines[3]}]").identify(f"Bearer {lines[1]}").name == "carol"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["dave", "--role", "root"], "index-write"),
        (["a b", "--role", "infer"], "name"),
        (["dave", "--role", "infer", "--rate", "0"], "rate"),
        (["dave", "--role", "infer", "--burst", "3"], "burst"),
    ],
)
def test_wrong_usage(arguments: list[str], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        typer.main.get_command(app).main(["new", *arguments], prog_name="wander keys", standalone_mode=False)


def test_key_without_a_role(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("dave") == 2
    assert "--role" in capfd.readouterr().err


def test_command_is_mounted() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["wander.commands"]["keys"] == "serving.auth.cli:app"
