"""The log-mel front end: against the sequences of RAVDESS, and what it makes of recordings."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from tests.oracles import SHARED
from tests.tasks.front_ends.sounds import RATE, tone, wav
from wander.errors import BundleError, InputError, TooLarge
from wander.signature import TensorSpec
from wander.tasks.front_ends._sound import SoundLimits, load_sound
from wander.tasks.front_ends.logmel import Logmel, LogmelOptions, loudest, slopes

RAVDESS = SHARED / "data" / "ravdess"
OPTIONS = LogmelOptions(
    frames=4, views={"audio": "bands", "change": "changes", "contour": "contour", "summary": "summary"}
)
ROWS = 32


def front_end(options: LogmelOptions = OPTIONS, rows: int = ROWS) -> Logmel:
    inputs = {
        name: TensorSpec(name=name, dtype="float32", dims=("batch", rows, options.width(view)))
        for name, view in options.views.items()
    }
    return Logmel(options, "audio", inputs, Path("nowhere"))


def voice(seconds: float = 1.0, gain: float = 1.0) -> bytes:
    silence = np.zeros(RATE // 2)
    return wav(np.concatenate([silence, gain * tone(seconds), silence]))


def sequences() -> dict[str, NDArray[np.float32]]:
    """The log-mel sequences of the data set in decibels, by id."""
    found = {}
    for split in ("train", "valid", "test"):
        with np.load(RAVDESS / f"ravdess_logmel_{split}.npz") as file:
            ends = np.cumsum(file["length"])
            parts = np.split(file["logmel_q"], ends[:-1])
            found |= {
                str(name): 0.5 * part.astype(np.float32) - 80 for name, part in zip(file["id"], parts, strict=True)
            }
    return found


@pytest.mark.skipif(not RAVDESS.is_dir(), reason="the folder shared/data/ravdess is not beside the project")
def test_recordings_of_ravdess_give_its_sequences() -> None:
    """As near as the quantisation lets them (0.25 dB), where the 16 bits of the wav files do not drown the band."""
    known, paths = sequences(), sorted((RAVDESS / "wav").glob("*.wav"))
    assert len(paths) == 16
    off = []
    for path in paths:
        mine = OPTIONS.log_mel(load_sound(path.read_bytes(), OPTIONS.rate, OPTIONS.limits))
        theirs = known[path.stem.removeprefix("03-")]
        assert mine.shape == theirs.shape
        off.append(np.stack([theirs, np.abs(mine.clip(-80, 47.5) - theirs)]).reshape(2, -1))
    level, error = np.concatenate(off, 1)
    assert error[level >= -20].max() < 0.4
    assert np.percentile(error[level >= -20], 99) < 0.3
    assert np.median(error[level >= -40]) < 0.15
    assert error[level >= -40].max() < 2
    # What a model reads: levelled, floored, in rows. Quiet bands, down to the floor, are in here.
    rows = [
        np.abs(a["audio"].features - b["audio"].features).mean()
        for path in paths
        for a, b in [(front_end()(path.read_bytes()), front_end()({"logmel": known[path.stem.removeprefix("03-")]}))]
        if a["audio"].features.shape == b["audio"].features.shape
    ]
    assert len(rows) >= 14
    assert max(rows) < 0.5


def test_a_tone_is_in_its_band() -> None:
    time = np.arange(RATE) / RATE
    decibels = OPTIONS.log_mel(np.sin(2 * np.pi * 1000 * time).astype(np.float32))
    assert decibels.shape == (49, 40)
    (band,) = set(decibels.argmax(1))
    centre = 700 * (10 ** ((77.75 + (band + 1) * (2788.3 - 77.75) / 41) / 2595) - 1)
    assert abs(centre - 1000) < 60
    # Σ hann = 199.5, so the spectrum peaks at (199.5 / 2)²: 40 dB, and the band holds some three bins of the lobe.
    assert 38 < decibels.max() < 44


def test_rows_are_the_sounding_part_with_its_times() -> None:
    made = front_end()(voice())
    assert set(made) == {"audio", "change", "contour", "summary"}
    rows = made["audio"]
    assert rows.features.dtype == np.float32
    assert len(rows.features) == len(rows.labels) == len(made["contour"].features)
    (first, _), (_, last) = rows.labels[0], rows.labels[-1]
    assert 0.45 < first < 0.65
    assert 1.3 < last < 1.6
    ((start, end),) = made["summary"].labels
    assert (start, end) == pytest.approx((first, last), abs=0.08)
    assert made["summary"].features.shape == (1, OPTIONS.width("summary"))
    assert rows.labels[1] == pytest.approx((first + 0.08, first + 0.16), abs=2e-3)


def test_gain_does_not_count() -> None:
    loud, quiet = (front_end()(voice(gain=gain)) for gain in (1.0, 0.1))
    for name, rows in loud.items():
        assert quiet[name].labels == rows.labels
        assert np.abs(quiet[name].features - rows.features).mean() < (3.0 if name == "summary" else 1.0)


def test_a_long_recording_is_read_where_it_is_loudest() -> None:
    quiet = 0.05 * tone(4.0)
    made = front_end()(wav(np.concatenate([quiet, tone(2.0), quiet])))["audio"]
    assert made.features.shape == (ROWS, 160)
    (first, _), (_, last) = made.labels[0], made.labels[-1]
    assert last - first == pytest.approx(ROWS * 0.08, abs=0.01)
    assert first < 4.5
    assert last > 5.5


@pytest.mark.parametrize(
    ("raw", "error", "message"),
    [
        (wav(np.zeros(RATE)), InputError, "is silent"),
        (wav(np.full(RATE, 1e-5)), InputError, "is silent"),
        (wav(tone(0.02)), InputError, "too short"),
        (b"text", InputError, "no sound file"),
        ({}, InputError, "field logmel alone"),
        ({"logmel": [[0.0] * 40], "more": 1}, InputError, "field logmel alone"),
        ({"logmel": [[0.0] * 39]}, InputError, "rows of 40"),
        ({"logmel": []}, InputError, "rows of 40"),
        ({"logmel": [[0.0] * 40, [0.0]]}, InputError, "equal length"),
        ({"logmel": [["0"] * 40]}, InputError, "rows of 40"),
        ({"logmel": [[float("nan")] * 40]}, InputError, "no decibel"),
        ({"logmel": [[1e9] * 40]}, InputError, "no decibel"),
        ({"logmel": [[-100.0] * 40]}, InputError, "is silent"),
        ({"logmel": np.zeros((3001, 40))}, TooLarge, "more than 3000"),
    ],
)
def test_what_is_refused(raw: object, error: type[InputError], message: str) -> None:
    assert front_end().reads(raw)
    with pytest.raises(error, match=message) as caught:
        front_end()(raw)
    assert caught.value.field == "audio"


def test_a_click_is_one_row() -> None:
    click = np.zeros(RATE)
    click[RATE // 2] = 1
    assert 1 <= len(front_end()(wav(click))["audio"].features) <= 2


def test_silence_is_the_row_of_what_has_ended() -> None:
    rows = OPTIONS.silence()
    assert {name: len(row) for name, row in rows.items()} == {"audio": 160, "change": 160, "contour": 24}
    assert set(rows["audio"]) == {-60.0}
    assert set(rows["change"]) == {0.0}


def test_the_example_is_a_recording() -> None:
    made = front_end()(base64.b64decode(front_end().example({})))
    assert len(made["audio"].features) > 2


def test_slopes_of_a_ramp() -> None:
    ramp = np.arange(10, dtype=np.float32)[:, None] * 3
    assert slopes(ramp)[2:-2] == pytest.approx(3.0)


def test_loudest() -> None:
    level = np.array([0, 0, 5, 5, 0, 0], np.float32)[:, None]
    assert loudest(level, 2) == 2
    assert loudest(level, 6) == loudest(level, 9) == 0


@pytest.mark.parametrize("change", [{"window": 600}, {"high_hz": 9000}, {"views": {}}, {"speed": 2}])
def test_declarations_that_cannot_be(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LogmelOptions.model_validate({"views": {"audio": "bands"}, **change})


def test_inputs_that_do_not_fit() -> None:
    short = TensorSpec(name="audio", dtype="float32", dims=("batch", 8, 40))
    with pytest.raises(BundleError, match="rows of 160 numbers"):
        Logmel(LogmelOptions(views={"audio": "bands"}), "audio", {"audio": short}, Path())
    with pytest.raises(BundleError, match="no input of the graph"):
        Logmel(LogmelOptions(views={"sound": "bands"}), "audio", {"audio": short}, Path())
    whole = TensorSpec(name="audio", dtype="float32", dims=("batch", 1, OPTIONS.width("summary")))
    with pytest.raises(BundleError, match="must be a sequence"):
        Logmel(LogmelOptions(views={"audio": "summary"}), "audio", {"audio": whole}, Path())


def test_the_limit_on_seconds_is_that_of_the_declaration() -> None:
    options = OPTIONS.model_copy(update={"limits": SoundLimits(max_seconds=1.5)})
    with pytest.raises(TooLarge, match=r"longer than 1\.5 seconds"):
        front_end(options)(voice())
