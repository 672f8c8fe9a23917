"""Sound files: the usual kinds say the same, and what is no sound file is refused by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tasks.front_ends.sounds import RATE, encoded, float_wav, tone, wav
from wander.errors import InputError, TooLarge, UnsupportedMedia
from wander.tasks.front_ends._sound import SoundLimits, load_sound

LIMITS = SoundLimits(max_seconds=20)


def read(data: object, limits: SoundLimits = LIMITS) -> np.ndarray:
    return load_sound(data, RATE, limits, "audio")


def likeness(found: np.ndarray, wanted: np.ndarray, shift: int = 2000) -> float:
    """The largest correlation over shifts, for codecs add a delay."""
    size = max(len(found), len(wanted)) + shift
    product = np.fft.irfft(np.fft.rfft(found, 2 * size) * np.fft.rfft(wanted, 2 * size).conj(), 2 * size)
    return float(product.max() / np.sqrt((found**2).sum() * (wanted**2).sum()))


def test_samples_at_the_rate_of_the_model_are_exact() -> None:
    found = read(wav(tone()))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.trunc(tone() * 32767).astype(np.float32) / 32768)


@pytest.mark.parametrize(
    ("make", "least"),
    [
        (lambda: wav(tone(), width=1), 0.999),
        (lambda: wav(tone(), width=3), 0.9999),
        (lambda: wav(tone(), width=4), 0.9999),
        (lambda: float_wav(tone()), 0.9999),
        (lambda: wav(tone(), channels=2), 0.9999),
        (lambda: wav(tone(), channels=64), 0.9999),
        (lambda: wav(tone(rate=8_000), 8_000), 0.999),
        (lambda: wav(tone(rate=44_100), 44_100), 0.999),
        (lambda: wav(tone(rate=192_000), 192_000), 0.999),
        (lambda: encoded("flac", "flac", tone(), RATE), 0.9999),
        (lambda: encoded("aiff", "pcm_s16be", tone(), RATE), 0.9999),
        (lambda: encoded("mp3", "libmp3lame", tone(rate=44_100), 44_100, "s16p"), 0.99),
        (lambda: encoded("ogg", "libopus", tone(rate=48_000), 48_000), 0.98),
        (lambda: encoded("webm", "libopus", tone(rate=48_000), 48_000), 0.98),
        (lambda: encoded("ipod", "aac", tone(rate=44_100), 44_100, "fltp"), 0.98),
    ],
    ids="8-bit 24-bit 32-bit float stereo 64-channels 8-kHz 44-kHz 192-kHz flac aiff mp3 ogg webm m4a".split(),
)
def test_every_kind_says_the_same(make: Callable[[], bytes], least: float) -> None:
    found = read(make())
    assert abs(len(found) - RATE) < 0.15 * RATE
    assert likeness(found, tone()) > least


HOSTILE: dict[str, tuple[Callable[[], object], type[InputError], str]] = {
    "no bytes": (lambda: b"", InputError, "no bytes"),
    "text": (lambda: "a sentence", InputError, "no bytes"),
    "number": (lambda: 5, InputError, "no bytes"),
    "text named .wav": (lambda: b"this is a text, whatever its name says", UnsupportedMedia, "no sound file"),
    "a picture": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(100), UnsupportedMedia, "no sound file"),
    "a playlist": (lambda: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", UnsupportedMedia, "no sound file"),
    "a list of files": (lambda: b"ffconcat version 1.0\nfile /etc/passwd\n", UnsupportedMedia, "no sound file"),
    "zeros": (lambda: bytes(1000), UnsupportedMedia, "no sound file"),
    "a head alone": (lambda: wav(tone())[:44], InputError, "no sound|truncated"),
    "half a head": (lambda: wav(tone())[:30], InputError, "no sound|truncated"),
    "no samples": (lambda: wav(np.zeros(0)), InputError, "no sound|truncated"),
    "noise after a magic": (lambda: b"fLaC" + np.random.default_rng(0).bytes(500), InputError, "truncated|no sound"),
    "noise as mp3": (lambda: b"ID3" + np.random.default_rng(0).bytes(500), InputError, "truncated|no sound"),
    "half an m4a": (lambda: encoded("ipod", "aac", tone(), RATE, "fltp")[:3000], InputError, "truncated"),
    "a video's head": (lambda: b"\0\0\0\x18ftypmp42" + bytes(64), InputError, "truncated|no sound"),
    "not a number": (lambda: float_wav(np.full(RATE, np.nan)), InputError, "not finite"),
    "infinite": (lambda: float_wav(np.full(RATE, np.inf)), InputError, "not finite"),
    "too many bytes": (lambda: wav(np.zeros(11 << 20)), TooLarge, "bytes"),
    "21 seconds": (lambda: wav(tone(21)), TooLarge, "longer than 20 seconds"),
    "two hours in a small file": (lambda: encoded("flac", "flac", np.zeros(7200 * 8000), 8000), TooLarge, "longer"),
    "rate 1": (lambda: wav(tone(0.5), 1), InputError, "samples a second"),
    "rate 4 MHz": (lambda: wav(tone(), 4_000_000), InputError, "samples a second"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files(case: str) -> None:
    make, error, message = HOSTILE[case]
    with pytest.raises(InputError, match=message) as caught:
        read(make())
    assert type(caught.value) is error
    assert caught.value.field == "audio"


def test_a_truncated_recording_is_read_as_far_as_it_goes() -> None:
    """The usual end of a broken upload; what came is sound."""
    found = read(wav(tone())[:16_044])
    np.testing.assert_array_equal(found, read(wav(tone()))[:8000])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_files_are_refused_or_read(data: st.DataObject) -> None:
    original = {"wav": wav(tone(0.1)), "flac": encoded("flac", "flac", tone(0.1), RATE)}
    body = bytearray(original[data.draw(st.sampled_from(sorted(original)))])
    for _ in range(data.draw(st.integers(1, 8))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)))
    try:
        found = read(bytes(body[:cut]))
    except InputError:
        return
    assert found.ndim == 1
    assert 0 < len(found) <= 20 * RATE + RATE
    assert np.isfinite(found).all()
