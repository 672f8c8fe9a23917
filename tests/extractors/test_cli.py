"""`wander extract`: video files to items that `wander index add --jsonl` takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from tests.extractors.making import video
from wander.errors import UsageError
from wander.extractors import VideoLimits, Watching
from wander.extractors.cli import extract

APP = typer.Typer()
APP.command()(extract)
COLOURS = {"colours": {"kind": "frame_colours", "step": 1}}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "one.mp4").write_bytes(video(20))
    (tmp_path / "bad.mp4").write_bytes(b"none")
    (tmp_path / "config.json").write_text(json.dumps({"extractors": COLOURS}))
    return tmp_path


def run(work: Path, config: str, *files: str) -> tuple[int, list[dict[str, object]]]:
    out = work / "items.jsonl"
    given = [str(work / config), *(str(work / file) for file in files), "--out", str(out)]
    done = CliRunner().invoke(APP, given)
    if isinstance(done.exception, UsageError):
        raise done.exception
    return done.exit_code, [json.loads(line) for line in out.read_text().splitlines()]


def test_features_are_those_that_a_server_makes(work: Path) -> None:
    code, items = run(work, "config.json", "one.mp4")
    assert code == 0
    expected = Watching(COLOURS, work, VideoLimits())(video(20))["colours"].item()
    assert [item["id"] for item in items] == ["one.mp4"]
    found = items[0]["video"]["experts"]["colours"]  # type: ignore[index]
    np.testing.assert_allclose(found["features"], expected["features"])
    np.testing.assert_allclose(found["times"], expected["times"])


def test_a_file_that_is_refused_costs_no_other_its_features(work: Path) -> None:
    code, items = run(work, "config.json", "bad.mp4", "one.mp4")
    assert code == 1
    assert [item["id"] for item in items] == ["one.mp4"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"extractors": {}}', '{"extractors": [1]}', '{"extractors": {"a": 1}}']
)
def test_a_wrong_configuration_is_refused(work: Path, text: str) -> None:
    (work / "config.json").write_text(text)
    with pytest.raises(UsageError, match=r"config\.json"):
        run(work, "config.json", "one.mp4")


def test_what_is_there_is_not_overwritten(work: Path) -> None:
    (work / "items.jsonl").write_text("kept")
    with pytest.raises(UsageError, match="exists already"):
        run(work, "config.json", "one.mp4")
