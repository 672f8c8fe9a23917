from pathlib import Path

import pytest

from benchmarks import adapter_forms
from benchmarks.adapter_forms import FOLDED, TINY, UNEQUAL, Size, agreement, in_fresh_process, measure
from tests.benchmarks.running import quick

FORMS = ["SF-OP", "SF-VF", "SF", "PoS", FOLDED]


def test_a_quick_run_measures_every_form(tmp_path: Path) -> None:
    found = quick("adapter_forms", tmp_path / "forms.json")
    (size,) = found["sizes"]
    assert list(size["forms"]) == FORMS
    for name, form in size["forms"].items():
        assert form["parameters"] > 0
        assert ("training" in form) == (name != FOLDED)
        for mode in form["flops"]:
            assert form[mode]["ms"]["lower"] > 0
            assert form[mode]["peak_mb"] >= 0
    assert size["forms"]["SF"]["forward"]["to"]["SF"]["median"] == 1
    assert "| paper | 611 | 525 | 611 | 525 |" in (tmp_path / "forms.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("size", [*TINY, Size((3, 4), 2, 8, 1)], ids=lambda size: size.name)
def test_forms_agree_where_they_must(size: Size) -> None:
    distances = agreement(size)
    assert distances.pop(UNEQUAL) > 0.01
    assert max(distances.values()) < 1e-12


def test_a_form_that_computes_something_else_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_forms, "agreement", lambda size: {"SF = SF-OP": 1e-3, UNEQUAL: 1.0})
    with pytest.raises(ValueError, match="SF = SF-OP"):
        measure(TINY[0], 1, lambda *_: iter(range(2)), 0.001, lambda _: None)


def test_peak_memory_is_that_of_the_largest_tensors() -> None:
    """SF-OP's joint tensor of 1000 × 512 floats is 2 MB an item; nothing of the low-rank form is that large."""
    size = Size((10, 10, 10), 8, 16, 16)
    joint = 16 * 1000 * 512 * 4 / 2**20
    assert joint < in_fresh_process(size, "SF-OP", "forward", 1) < 1.5 * joint
    assert in_fresh_process(size, FOLDED, "forward", 1) < 2
