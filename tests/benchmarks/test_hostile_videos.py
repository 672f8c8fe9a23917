from pathlib import Path

import pytest

from benchmarks import hostile_videos
from benchmarks.hostile_videos import QUICK, main
from tests.benchmarks.running import quick
from tests.hostile import Case


def test_a_quick_run_gets_an_answer_to_every_video(tmp_path: Path) -> None:
    found = quick("hostile_videos", tmp_path / "hostile.json")
    assert {row["video"]: row["status"] for row in found["answers"]} == dict(
        zip(QUICK, (200, 422, 413, 415), strict=True)
    )
    for row in found["answers"]:
        assert row["alive"]
        assert (row["field"], bool(row["detail"])) == ((None, False) if row["status"] == 200 else ("video", True))
    assert found["afterwards"]["status"] == 200
    assert found["memory"]["most_mb"] >= found["memory"]["before_mb"] > 0
    assert "| HTML |" in (tmp_path / "hostile.md").read_text(encoding="utf-8")


def test_an_answer_that_a_video_does_not_deserve_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = {case.name: case for case in hostile_videos.hostile_videos()}
    wrong = Case("HTML, taken for a video", cases["HTML"].data, "ok")
    monkeypatch.setattr(hostile_videos, "hostile_videos", lambda: [cases[QUICK[0]], wrong])
    monkeypatch.setattr(hostile_videos, "long_videos", list)
    with pytest.raises(hostile_videos.typer.Exit) as raised:
        main(quick=False, out=None)
    assert raised.value.exit_code == 1
    assert "HTML, taken for a video" in capsys.readouterr().err
