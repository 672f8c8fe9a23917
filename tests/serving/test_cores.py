"""A container's limit counts, not the cores of the machine below it."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving import cores


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("200000 100000", 2),
        ("250000 100000", 3),
        ("50000 100000", 1),
        ("max 100000", 4),
        ("9900000 100000", 4),
        ("", 4),
        (None, 4),
    ],
)
def test_usable_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, expected: int) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)))
    if text is not None:
        (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(cores, "QUOTA", tmp_path / "cpu.max")
    assert cores.usable_cores() == expected
