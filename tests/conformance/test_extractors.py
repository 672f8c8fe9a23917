"""One suite for every extractor: a new file in `wander/extractors` is tested here without a change.

Those whose settings name a file are skipped here, and their own tests have to say what this suite would.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from tests.extractors.making import video
from wander.extractors import Extractor, extractors
from wander.extractors._clip import Clip, Wanted, read_clip

WANTED = Wanted(step=0.1, side=64, sound=True)


def bound(name: str) -> Extractor:
    kind = extractors.get(name)
    try:
        return kind(kind.Config(), Path("nowhere"))
    except ValidationError:
        pytest.skip(f"{name} needs a file of its own")


@pytest.fixture(scope="module")
def clip() -> Clip:
    return read_clip(video(40, fps=10, tone=440), WANTED)


@pytest.fixture(params=extractors.names())
def extractor(request: pytest.FixtureRequest) -> Extractor:
    return bound(request.param)


@pytest.mark.parametrize("name", extractors.names())
def test_it_is_described(name: str) -> None:
    kind = extractors.get(name)
    assert kind.summary
    assert "\n" not in kind.summary
    assert kind.reads in ("pictures", "sound")


def test_it_makes_what_it_declares(extractor: Extractor, clip: Clip) -> None:
    found = extractor(clip)
    assert found is not None
    assert found.rows.dtype == np.float32
    assert found.rows.shape == (len(found.times), extractor.dimension)
    assert np.isfinite(found.rows).all()
    assert (np.diff(found.times) > 0).all()
    assert np.diff(found.times).min() >= extractor.step - 0.11
    again = extractor(clip)
    assert again is not None
    np.testing.assert_array_equal(found.rows, again.rows)


def test_it_tells_clips_apart(extractor: Extractor, clip: Clip) -> None:
    other = read_clip(video(40, fps=10, size=(80, 64), tone=2000, codec="mpeg4"), WANTED)
    one, two = extractor(clip), extractor(other)
    assert one is not None
    assert two is not None
    assert np.abs(one.rows.mean(0) - two.rows.mean(0)).max() > 1e-3


def test_it_finds_nothing_where_there_is_nothing(extractor: Extractor) -> None:
    nothing = Clip(np.zeros((0, 1, 1, 3), np.uint8), np.zeros(0), np.zeros(0, np.float32))
    assert extractor(nothing) is None


def test_a_step_is_kept_to(extractor: Extractor, clip: Clip) -> None:
    kind = type(extractor)
    coarse = kind(kind.Config(step=1.5), Path("nowhere"))(clip)
    fine = extractor(clip)
    assert coarse is not None
    assert fine is not None
    assert len(coarse.rows) < len(fine.rows)
