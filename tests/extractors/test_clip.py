"""Video files to clips: what is kept of whole ones, what is said of all others, and that limits hold."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tests.extractors.hostile_videos import hostile_videos
from tests.extractors.making import pictures, video
from tests.hostile import Case
from wander.errors import InputError, TooLarge
from wander.extractors._clip import RATE, Wanted, read_clip
from wander.extractors._limits import VideoLimits

SEEN = Wanted(step=0.5, side=32, sound=False)
BOTH = Wanted(step=0.5, side=32, sound=True)


@pytest.mark.parametrize("case", hostile_videos(), ids=lambda case: case.name)
def test_every_file_gets_what_it_deserves(case: Case) -> None:
    if case.expected == "ok":
        clip = read_clip(case.data, SEEN)
        assert 1 <= len(clip.pictures) == len(clip.times) <= VideoLimits().max_pictures
        assert (np.diff(clip.times) > 0).all()
        return
    with pytest.raises(InputError) as caught:
        read_clip(case.data, SEEN, field="clip")
    assert type(caught.value) is case.expected
    assert caught.value.field == "clip"
    assert str(caught.value).startswith("clip ")


def test_pictures_are_those_of_the_file_in_rgb() -> None:
    clip = read_clip(video(20, fps=10), Wanted(step=0.1, side=48, sound=False))
    assert clip.pictures.shape == (20, 48, 64, 3)
    np.testing.assert_allclose(clip.times, np.arange(20) / 10, atol=1e-6)
    made = np.stack(list(pictures(20))).astype(int)
    assert np.abs(clip.pictures - made).mean() < 12  # lossy, but a wrong order of colours or pictures is far off
    assert np.abs(clip.pictures[..., ::-1] - made).mean() > 40
    assert clip.sound.size == 0


def test_pictures_are_taken_every_step_and_scaled_down() -> None:
    clip = read_clip(video(40, fps=10), Wanted(step=1, side=24, sound=False))
    assert clip.pictures.shape == (4, 24, 32, 3)
    np.testing.assert_allclose(clip.times, range(4), atol=1e-6)
    assert clip.every(2.0).tolist() == [0, 2]
    large = read_clip(video(3), Wanted(step=0.1, side=500, sound=False))
    assert large.pictures.shape[1:3] == (48, 64)


def test_a_video_that_was_filmed_upright_is_upright() -> None:
    """Phones store pictures on their side, and write into the file by how much to turn them."""
    data = bytearray(video(3))
    matrix = data.index(b"tkhd") + 4 + 40
    data[matrix : matrix + 20] = struct.pack(">5i", 0, 1 << 16, 0, -1 << 16, 0)
    turned = read_clip(bytes(data), SEEN).pictures
    stored = read_clip(video(3), SEEN).pictures
    assert turned.shape[1:3] == (43, 32)
    np.testing.assert_array_equal(turned, np.rot90(stored, -1, (1, 2)))


def test_of_a_long_video_they_are_taken_less_often() -> None:
    clip = read_clip(video(60, fps=10), SEEN, VideoLimits(max_pictures=4))
    assert len(clip.pictures) == 4
    assert clip.times[-1] >= 4


@pytest.mark.parametrize("kind", ["mp4", "matroska"])
def test_sound_may_go_on_after_the_pictures(kind: str) -> None:
    for wanted in (SEEN, BOTH):
        assert len(read_clip(video(4, kind=kind, tone=300, seconds=4.0), wanted).pictures) == 1


def test_sound_is_mono_at_one_rate() -> None:
    clip = read_clip(video(20, tone=1000), BOTH)
    assert abs(len(clip.sound) / RATE - 2) < 0.1
    middle = clip.sound[RATE // 2 : RATE]
    assert np.abs(np.fft.rfft(middle)).argmax() / len(middle) * RATE == pytest.approx(1000, abs=5)
    assert read_clip(video(20), BOTH).sound.size == 0
    alone = read_clip(video(0, tone=1000), BOTH)
    assert len(alone.pictures) == 0
    assert alone.sound.size > RATE / 2


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_bytes": 100}, "bytes"),
        ({"max_seconds": 1}, "2 seconds long"),
        ({"max_pixels": 1000}, "64 x 48"),
        ({"max_decoded_pixels": 100_000}, "million pixels"),
    ],
)
def test_limits_hold(limits: dict[str, int], words: str) -> None:
    with pytest.raises(TooLarge, match=words):
        read_clip(video(20), SEEN, VideoLimits.model_validate(limits))


@pytest.mark.parametrize("value", [None, 7, "text", b""])
def test_what_is_no_bytes_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="no bytes of a video"):
        read_clip(value, SEEN)


@pytest.mark.parametrize("kind", ["mp4", "matroska", "avi", "webm"])
def test_whatever_is_broken_in_a_file_it_is_read_or_refused(kind: str) -> None:
    """Bytes at random places replaced, and the file cut."""
    random, whole = np.random.default_rng(0), video(12, kind=kind, tone=300 if kind == "mp4" else None)
    for _ in range(60):
        data = bytearray(whole)
        for place in random.integers(12, len(data), random.integers(1, 12)):
            data[place] = random.integers(256)
        cut = len(data) if random.random() < 0.7 else random.integers(12, len(data))
        try:
            clip = read_clip(bytes(data[:cut]), BOTH)
        except InputError:
            continue
        assert len(clip.pictures) or clip.sound.size
        assert clip.pictures.dtype == np.uint8
