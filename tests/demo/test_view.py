"""What is shown: whole, in proportion, and never as somebody else's markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from demo import view

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
TOLD = {
    "name": EVIL, "version": EVIL, "adapter": EVIL, "precision": EVIL, "engine": {"provider": EVIL},
    "parity": {"passed": True, "max_abs": 1e-6, "reference": EVIL, "agreement": 1.0},
}  # fmt: skip
TIMES = {"queue": 1.0, "preprocess": 2.0, "inference": 3.0, "postprocess": 4.0}
EXPLAINED = {
    "target": "score", "score": 1.5, "residual_score": 0.5,
    "modalities": {
        EVIL: {"contributions": [0.25, 0.75, 0.0], "padding": 0.0, "constant": 0.0, "total": 1.0},
        "audio": {"contributions": [-1.0, 1.5], "padding": 0.5, "constant": 0.0, "total": 1.0},
    },
}  # fmt: skip


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.events: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.events += [
            name for name, value in attrs if name.startswith("on") or (value or "").startswith("javascript")
        ]


@pytest.mark.parametrize(
    "shown",
    [
        view.card(title=EVIL), view.note(EVIL), view.problem(EVIL, EVIL, EVIL), view.bars([(EVIL, 0.5)], EVIL),
        view.scores([(EVIL, 0.5)], 1.0), view.scale(1.0, EVIL, 1), view.picture(EVIL, EVIL, 1.0),
        view.clip(EVIL, EVIL, 1.0, view.weights({EVIL: 1.0})), view.waiting(EVIL),
        view.about(TOLD, {"version": EVIL, "adapter": EVIL, "timing": {**TIMES, EVIL: 1.0}}, EVIL),
        view.explanation(EXPLAINED, {EVIL: [EVIL, "b", "c"]}),
    ],
)  # fmt: skip
def test_texts_of_others_stay_texts(shown: str) -> None:
    found = Tags()
    found.feed(shown)
    assert "script" not in found.tags
    assert found.tags.count("img") <= 1  # that of `picture`
    assert found.events == []


@pytest.mark.parametrize(("score", "place", "class7"), [(-9.0, 0, -3), (0.0, 50, 0), (1.5, 75, 2), (3.0, 100, 3)])
def test_scale(score: float, place: float, class7: int) -> None:
    shown = view.scale(score, "positive", class7)
    assert f"left:{place:.2f}%" in shown
    assert shown.count("aria-current") == 1
    assert shown.count("<li") == 7


def test_explanation_shows_every_token_and_the_difference() -> None:
    shown = view.explanation(EXPLAINED, {"audio": ["um", "yes"]})
    strips = re.findall(r'<div class="wd-strip".*?</div>', shown)
    assert [strip.count("<i ") for strip in strips] == [3, 2]
    assert shown.count("<mark") == 2 + 2  # the words of one modality, and the legend
    assert "+1.000" in shown
    assert "from padding" in shown
    strongest = re.search(r"background:rgba\(37,99,235,0\.750\)", shown)
    assert strongest, "the largest contribution of all has the deepest colour"


@pytest.mark.parametrize("timing", [TIMES, {**TIMES, "search": 5.0}, dict.fromkeys(TIMES, 0.0)])
def test_time_is_told_whole(timing: dict[str, Any]) -> None:
    told = {**TOLD, "name": "m", "version": "1"}
    shown = view.about(told, {"version": "1", "adapter": "a", "timing": timing}, "")
    assert f"{sum(timing.values()):.2f} ms" in shown
    assert all(name in shown for name in timing)


def test_a_miss_of_parity_is_not_hidden() -> None:
    told = {**TOLD, "parity": {**TOLD["parity"], "passed": False}}  # type: ignore[dict-item]
    assert "FAILED" in view.about(told, {"version": "1", "adapter": "a"}, "")
