"""Video files with captions: items of both sides, and a model that is measured on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.extractors.making import video
from tests.extractors.models import EXTRACTORS, checkpoint
from wander.errors import UsageError
from wander.training.datasets import open_dataset
from wander.training.datasets.clips import Clips
from wander.training.evaluation import evaluate

CAPTIONS = """clip,caption_index,caption
one.mp4,0,a square moves
one.mp4,1,"a square, a square"
two.avi,0,a moves
"""


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "captions.csv").write_text(CAPTIONS)
    (folder / "one.mp4").write_bytes(video(20))
    (folder / "two.avi").write_bytes(video(9, kind="avi", size=(64, 48)))
    return folder


def test_items_are_clips_then_captions_and_labels_say_what_belongs_together(clips: Path) -> None:
    assert isinstance(open_dataset(clips), Clips)
    split = open_dataset(clips).load(clips, "test", ())
    assert [sorted(item) for item in split.items] == [["video"]] * 2 + [["text"]] * 3
    assert split.labels.tolist() == [0, 1, 0, 0, 1]
    assert split.ids == ["one.mp4", "two.avi", "one.mp4#0", "one.mp4#1", "two.avi#2"]
    assert split.items[0]["video"] == (clips / "one.mp4").read_bytes()


def test_what_is_not_there_is_refused(clips: Path) -> None:
    with pytest.raises(UsageError, match="it has test alone"):
        open_dataset(clips).load(clips, "train", ())
    (clips / "two.avi").unlink()
    with pytest.raises(UsageError, match=r"lacks a clip.*two\.avi"):
        open_dataset(clips).load(clips, "test", ())
    (clips / "captions.csv").write_text("image,caption\n")
    with pytest.raises(UsageError, match="no data set"):
        open_dataset(clips)


def test_a_model_that_watches_files_is_measured_on_them(clips: Path, tmp_path: Path) -> None:
    found = evaluate(checkpoint(tmp_path / "model", EXTRACTORS), clips)
    assert found.rows == {"text": 3, "video": 2}
    assert set(found.metrics) >= {"text_to_video.r1", "video_to_text.mnr"}
    with pytest.raises(UsageError, match=r"one\.mp4"):
        evaluate(checkpoint(tmp_path / "blind", {}), clips)
