"""Folders that appear whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from wander.errors import UsageError
from wander.files import new_folder, relative_files, sha256


def test_a_new_folder_appears_when_it_is_filled(tmp_path: Path) -> None:
    target = tmp_path / "a" / "out"
    with new_folder(target) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "x").write_text("1")
        assert not target.exists()
    assert relative_files(target) == ["deep/x"]
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with new_folder(tmp_path / "out") as folder:
            (folder / "x").write_text("1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists already"), new_folder(tmp_path):
        pass


def test_the_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()
