import json
import platform
from pathlib import Path

import pytest

from benchmarks.results import circumstances, publish, table


def test_circumstances_say_what_ran_but_not_on_whose_machine() -> None:
    about = circumstances("benchmarks.folds", ("numpy",))
    assert about["command"].startswith("python -m benchmarks.folds")
    assert {"date", "cpu", "python", "numpy"} <= about.keys()
    assert platform.node() not in " ".join(value for name, value in about.items() if name != "command")


def test_a_table_is_markdown() -> None:
    assert table(["a", "b"], [["x", 1]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"


def test_both_files_and_stdout_tell_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish("Title", {"command": "python -m x", "date": "today"}, ["Body."], {"numbers": [1]}, tmp_path / "x.json")
    text = (tmp_path / "x.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == text == "# Title\n\n`python -m x`\n\ndate today\n\nBody.\n"
    data = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert data == {"circumstances": {"command": "python -m x", "date": "today"}, "numbers": [1]}


def test_the_kept_results_are_well_formed_and_name_no_folder_of_a_machine() -> None:
    folder = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
    for path in folder.glob("*.json"):
        about = json.loads(path.read_text(encoding="utf-8"))["circumstances"]
        assert "/root" not in json.dumps(about)
        assert "/home" not in json.dumps(about)
        assert about["command"] in path.with_suffix(".md").read_text(encoding="utf-8")
