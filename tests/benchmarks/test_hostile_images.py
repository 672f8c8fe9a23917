from pathlib import Path

import httpx
import pytest

from benchmarks import hostile_images
from benchmarks._hostile import cell
from benchmarks.hostile_images import QUICK, main
from tests.benchmarks.running import quick
from tests.hostile import Case


def test_a_quick_run_gets_an_answer_to_every_picture(tmp_path: Path) -> None:
    found = quick("hostile_images", tmp_path / "hostile.json")
    assert {row["picture"]: row["status"] for row in found["answers"]} == dict(
        zip(QUICK, (200, 422, 413, 415), strict=True)
    )
    for row in found["answers"]:
        assert row["alive"]
        assert (row["field"], bool(row["detail"])) == ((None, False) if row["status"] == 200 else ("image", True))
    assert found["afterwards"]["status"] == 200
    assert "| PDF |" in (tmp_path / "hostile.md").read_text(encoding="utf-8")


def test_an_answer_that_a_picture_does_not_deserve_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good, *others = hostile_images.hostile_images()
    pdf = next(case for case in others if case.name == "PDF")
    wrong = Case("a PDF, taken for a picture", pdf.data, "ok")
    monkeypatch.setattr(hostile_images, "hostile_images", lambda: [good, wrong])
    with pytest.raises(hostile_images.typer.Exit) as raised:
        main(quick=False, out=None)
    assert raised.value.exit_code == 1
    assert "a PDF, taken for a picture" in capsys.readouterr().err


def test_a_server_that_is_gone_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(*_: object, **__: object) -> httpx.Response:
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(httpx.Client, "post", gone)
    with pytest.raises(hostile_images.typer.Exit):
        main(quick=True, out=None)
    assert "the server gave no answer: refused" in capsys.readouterr().err


def test_a_cell_keeps_to_its_line_and_column() -> None:
    assert cell("a|b\n c\x00\x1b") == "a\\|b c\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"
