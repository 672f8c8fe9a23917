"""Discovery: a file is a plug-in, and it is imported when it is asked for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from wander.errors import ConfigError
from wander.registry import Registry


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "some_plugins"
    folder.mkdir()
    files = {
        "__init__": "",
        "base": "class Base: ...",
        "cli": "",
        "_helper": "raise AssertionError('never imported')",
        "two_words": "from some_plugins.base import Base\nclass Two(Base): ...\nplugin = Two",
        "broken": "raise RuntimeError('imported')",
        "wrong": "plugin = int",
    }
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "some_plugins"
    for name in [name for name in sys.modules if name.startswith("some_plugins")]:
        del sys.modules[name]


def test_files_are_plugins_and_imported_on_demand(package: str) -> None:
    from some_plugins.base import Base

    registry = Registry(package, Base)
    assert registry.names() == ["broken", "two_words", "wrong"]
    assert registry.get("two-words").__name__ == registry.get("two_words").__name__ == "Two"
    assert "some_plugins.broken" not in sys.modules


def test_what_is_unknown_or_wrong_is_named(package: str) -> None:
    from some_plugins.base import Base

    registry = Registry(package, Base)
    with pytest.raises(ConfigError, match=r"'three' is none of the some_plugins known here: broken, two_words, wrong"):
        registry.get("three")
    with pytest.raises(ConfigError):
        registry.get("_helper")
    with pytest.raises(TypeError, match="must be a class derived from Base"):
        registry.get("wrong")
