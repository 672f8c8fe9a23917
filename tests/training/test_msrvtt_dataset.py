"""Captions as stand-ins for experts: what is dealt, and what a caption becomes."""

from __future__ import annotations

from math import log
from pathlib import Path

import numpy as np
import pytest

from tests.oracles import SHARED
from tests.training.said import write_said
from wander.errors import UsageError
from wander.signature import TensorSpec
from wander.training.datasets import open_dataset
from wander.training.datasets._stand_ins import PLACES, StandIns
from wander.training.datasets.msrvtt import Msrvtt, videos

WIDTHS = {"rgb": 64, "speech": 16, "face": 32}
INPUTS = tuple(TensorSpec(name=f"features_{n}", dtype="float32", dims=("batch", 3, w)) for n, w in WIDTHS.items())
DATA = SHARED / "data" / "msrvtt"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_said(tmp_path / "said")


def made(missing: float = 0.0, most: int = 3) -> StandIns:
    return StandIns(["a dog", "a cat", "a dog runs"], missing, most)


def test_items_are_videos_then_queries_and_labels_say_what_belongs_together(tiny: Path) -> None:
    split = open_dataset(tiny).load(tiny, "test", INPUTS)
    assert [sorted(item) for item in split.items] == [["video"]] * 5 + [["text"]] * 5
    assert split.labels.tolist() == [*range(5), *range(5)]
    assert len(set(split.ids)) == 10
    for item in split.items[:5]:
        experts = item["video"]["experts"]
        assert 1 <= len(experts) <= 3
        for name, expert in experts.items():
            assert expert["features"].shape[1] == WIDTHS[name]
            assert 1 <= len(expert["features"]) <= 3


def test_a_split_is_the_same_every_time(tiny: Path) -> None:
    once, again = (open_dataset(tiny).load(tiny, "test", INPUTS) for _ in range(2))
    for one, other in zip(once.items[:5], again.items[:5], strict=True):
        assert one["video"]["experts"].keys() == other["video"]["experts"].keys()
        for name, expert in one["video"]["experts"].items():
            np.testing.assert_array_equal(expert["features"], other["video"]["experts"][name]["features"])


def test_the_query_is_not_among_what_experts_saw(tiny: Path) -> None:
    """Nor is a caption in the same words; here the queries are written in capitals."""
    for video in videos(tiny, "test"):
        assert len(video.others) == 4
        assert video.query.lower() not in video.others
    asked = videos(tiny, "train", (0, 1, 2, 3))
    assert len(asked) == 4 * 12
    assert all(video.query not in video.others for video in asked)


def test_all_captions_are_dealt_and_dealt_again_if_they_are_few() -> None:
    names = list(WIDTHS)
    for captions in (["x"], ["x", "y"], list("abcdefg")):
        hands = made().deal(captions, names, np.random.default_rng(0))
        assert set(hands) == set(names)
        assert {caption for hand in hands.values() for caption in hand} == set(captions)
        sizes = [len(hand) for hand in hands.values()]
        assert max(sizes) - min(sizes) <= 1


def test_some_experts_are_missing_but_never_all() -> None:
    hands = [made(missing=0.9).deal(["x"], list(WIDTHS), np.random.default_rng(seed)) for seed in range(200)]
    assert min(len(hand) for hand in hands) == 1
    assert np.mean([len(hand) for hand in hands]) < 1.8


def test_a_row_is_its_words_by_how_rare_they_are() -> None:
    stand_ins = made()
    assert stand_ins.weights == {"a": 0.0, "dog": log(1.5), "cat": log(3), "runs": log(3)}
    both, dog, other, nothing = stand_ins.rows(["a dog runs", "A DOG!", "unheard of", "?!"], "rgb", 256)
    for row in (both, dog, other):
        assert np.linalg.norm(row) == pytest.approx(1)
        assert (row >= 0).all()
    assert not nothing.any()
    assert 0 < np.count_nonzero(dog) <= PLACES
    assert set(np.flatnonzero(dog)) < set(np.flatnonzero(both))
    np.testing.assert_array_equal(stand_ins.rows(["dog a"], "rgb", 256)[0], dog)
    assert (stand_ins.rows(["dog"], "ocr", 256)[0] != dog).any()


def test_a_rarer_word_keeps_a_place_that_it_shares() -> None:
    row = made().rows(["a dog runs cat"], "rgb", 1)[0]
    assert row.tolist() == [1.0]


def test_what_does_not_fit_is_refused(tiny: Path) -> None:
    with pytest.raises(UsageError, match="no split 'dev'; it has train, valid and test"):
        open_dataset(tiny).load(tiny, "dev", INPUTS)
    with pytest.raises(UsageError, match="features of experts"):
        open_dataset(tiny).load(tiny, "test", (TensorSpec(name="image", dtype="float32", dims=("batch", 3)),))
    (tiny / "msrvtt_1ka_test.csv").write_text("video_id,caption\nnobody,a dog\n")
    with pytest.raises(UsageError, match="no whole data set of captions: 'nobody'"):
        open_dataset(tiny).load(tiny, "test", INPUTS)


@pytest.mark.skipif(not DATA.is_dir(), reason="the folder shared/data/msrvtt is not beside the project")
def test_the_real_captions() -> None:
    assert isinstance(open_dataset(DATA), Msrvtt)
    tested = videos(DATA, "test")
    assert len(tested) == 820
    assert all(len(video.others) >= 15 for video in tested)
    assert len(videos(DATA, "valid")) == 497
