"""The picture and the page, from points that were made up. Whether they please, a person has to look."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.bench import report
from serving.bench.captions import captions, short_labels
from serving.bench.driver import HTTP
from serving.bench.figure import drawn, stages
from serving.bench.loads import Load, Point, Server, Window
from serving.bench.measuring import Plan
from serving.bench.results import document, point_json
from serving.bench.targets import Case


def made_up(cases: int = 1, loads: int = 3, told: bool = True, batch: int = 1) -> dict[str, Any]:
    """A document whose latencies grow with the load, as those of a queue."""
    random = np.random.default_rng(0)
    plan, own, points = Plan(), [], []
    for number in range(cases):
        label = f"http://host:{8000 + number} batch {batch}"
        says = {"how": "POST /v1/<x>", "model": "mosi-sentiment 1", "precision": "fp32", "engine": f"ort {number}"}
        own.append(Case(label, label, batch, HTTP, {}, says))
    for load in [Load("closed", 4**i) for i in range(loads)]:
        for number, case in enumerate(own):
            rate = 900 * (1 + 0.4 * number) * (1 - 0.6 ** (np.log2(load.amount) + 1))
            mean = load.amount / rate * 1e9
            windows = [_window(random.gamma(6, mean / 6, int(rate))) for _ in range(6)]
            point = Point(case.label, load, batch, [(0, window) for window in windows])
            if told:
                shares = {"queue": 0.35, "preprocess": 0.08, "inference": 0.3, "postprocess": 0.02}
                point.server = Server({stage: share * mean / 1e6 for stage, share in shares.items()}, 1.5)
            points.append(point_json(point, case, plan.rule))
    return document(own, points, plan, [])


def _window(latencies: Any) -> Window:
    return Window(1.0, latencies.astype(np.int64), Counter({"200": len(latencies)}), np.empty(0, np.int64), 0.1)


@pytest.mark.parametrize(
    "content",
    [made_up(), made_up(cases=3, batch=4), made_up(told=False), made_up(loads=0)],
    ids=["one", "three", "untold", "none"],
)
def test_a_picture_is_16_to_9(content: dict[str, Any], tmp_path: Path) -> None:
    report.write(tmp_path / "x.png", content)
    data = (tmp_path / "x.png").read_bytes()
    width, height = (int.from_bytes(data[at : at + 4]) for at in (16, 20))
    assert width * 9 == height * 16


def test_a_page_needs_nothing_else_and_escapes_what_it_says(tmp_path: Path) -> None:
    content = made_up()
    report.write(tmp_path / "x.html", content)
    page = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert "POST /v1/&lt;x&gt;" in page
    assert "<x>" not in page
    assert 'src="data:image/png;base64,' in page
    assert "<script" not in page
    assert "href=" not in page
    assert f"{content['points'][0]['latency_ms']['p99']:.4g}" in page


def test_labels_keep_what_tells_cases_apart() -> None:
    labels = ("models/a ort batch 1", "models/a ort batch 8", "models/a fake batch 1")
    assert list(short_labels([{"label": label} for label in labels]).values()) == [
        "ort batch 1",
        "ort batch 8",
        "fake batch 1",
    ]
    assert len(short_labels([{"label": "a/" * 99}])["a/" * 99]) == 34
    assert short_labels([{"label": "http://x"}]) == {"http://x": "x"}


def test_captions_say_whether_it_was_stable() -> None:
    content = made_up()
    assert "all points were" in captions(content)[2]
    content["points"][0]["stable"] = False
    assert "1 of 3 points were not" in captions(content)[2]


def test_what_no_stage_explains_is_outside() -> None:
    point = made_up()["points"][0]
    assert sum(stages(point).values()) == pytest.approx(point["latency_ms"]["mean"])


@pytest.mark.parametrize(("points", "several", "expected"), [(3, False, [0, 1, 2]), (12, False, [2, 5, 8, 11])])
def test_some_distributions_are_drawn(points: int, several: bool, expected: list[int]) -> None:
    assert drawn([{"case": "x"}] * points, several) == expected


def test_of_several_cases_the_largest_load_of_each_is_drawn() -> None:
    assert drawn([{"case": "a"}, {"case": "b"}, {"case": "a"}, {"case": "b"}], True) == [2, 3]
