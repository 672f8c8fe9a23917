"""The threat model names tests: they are there."""

from __future__ import annotations

import ast
import re

import pytest

from serving.settings import Settings
from tests.test_architecture import ROOT

PAGE = ROOT / "docs" / "threat-model.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows() -> list[list[str]]:
    """The cells of every row of the tables of attacks."""
    found: list[list[str]] = []
    attacks = False
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or cells[0] == "Attack":
            attacks = line.startswith("|")
        elif attacks and not set(line) <= set("|- "):
            found.append(cells)
    return found


def test_it_has_rows() -> None:
    assert len(rows()) > 25


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:40])
def test_every_line_is_proved_by_tests_that_exist(row: list[str]) -> None:
    assert len(row) == 3
    named = NAMED.findall(row[2])
    assert named, f"no test is named for: {row[0]}"
    assert not NAMED.sub("", row[2]).strip(" ,"), f"something else than tests is named: {row[2]}"
    for path, name in named:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{path}::{name}"


def test_settings_that_are_named_exist() -> None:
    options = {f"--{name.replace('_', '-')}" for name in Settings.model_fields}
    named = set(re.findall(r"`(--[a-z-]+)", PAGE.read_text(encoding="utf-8"))) - {"--role"}
    assert named
    assert named <= options
