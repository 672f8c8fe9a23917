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
    """The cells of every row of the tables of what is defended."""
    text = PAGE.read_text(encoding="utf-8").partition("## What is not defended")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if not set(row[0]) <= set("-: ") and row[0] != "Attack"]


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
