from __future__ import annotations

import io
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from tests.hostile import Case
from tests.oracles import SHARED
from tests.tasks.hostile_images import encoded, gray_tiff, hostile_images, oriented, picture
from wander.errors import InputError, TooLarge
from wander.tasks._images import ImageLimits, ImagePreprocessing, image_array, load_image

ROOT = Path(__file__).resolve().parents[2]
FOOD = SHARED / "data" / "food" / "images"
SMALL = ImagePreprocessing(size=(16, 20))
HALVES = ImagePreprocessing(size=(16, 20), resample="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.mark.parametrize("case", hostile_images(), ids=lambda case: case.name)
def test_every_file_gets_its_answer(case: Case) -> None:
    start = time.perf_counter()
    if case.expected == "ok":
        array = image_array(case.data, SMALL, "items[2].image")
        assert (array.shape, array.dtype) == ((3, 16, 20), np.float32)
        assert np.isfinite(array).all()
    else:
        with pytest.raises(InputError) as caught:
            image_array(case.data, SMALL, "items[2].image")
        assert caught.type is case.expected
        assert caught.value.field == "items[2].image"
        assert str(caught.value).startswith("items[2].image ")
        assert "\n" not in str(caught.value)
    assert time.perf_counter() - start < 5


def test_there_are_many_different_files() -> None:
    assert len({case.name for case in hostile_images()}) == len(hostile_images()) > 100


def test_memory_stays_bounded_and_nothing_is_printed() -> None:
    """In a fresh process, where the highest memory is known: the cases themselves, then the largest pictures."""
    script = """
import io, resource
from PIL import Image
from tests.tasks.hostile_images import hostile_images
from wander.errors import InputError
from wander.tasks._images import ImagePreprocessing, image_array

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def run(data):
    try:
        image_array(data, ImagePreprocessing())
    except InputError:
        pass

files = [case.data for case in hostile_images()]
before = peak()
for data in files:
    run(data)
small = peak()
for mode, kind in (("RGB", "JPEG"), ("RGBA", "PNG")):
    stream = io.BytesIO()
    Image.new(mode, (5000, 5000)).save(stream, kind)
    run(stream.getvalue())
print(small - before, peak() - small)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    small, large = map(float, done.stdout.split())
    assert small < 200
    assert large < 20 * 25_000_000 / 2**20


@pytest.mark.parametrize("data", [None, 5, "text", [1, 2], memoryview(b"")])
def test_what_is_not_bytes_is_refused(data: Any) -> None:
    with pytest.raises(InputError, match="image holds no bytes"):
        load_image(data)


@pytest.mark.parametrize("form", [bytearray, memoryview])
def test_bytes_may_come_in_other_forms(form: Any) -> None:
    assert load_image(form(encoded(picture(), "PNG"))) == picture()


def test_limits_are_what_they_say() -> None:
    data = encoded(picture(10, 30), "PNG")
    load_image(data, limits=ImageLimits(max_bytes=len(data), max_pixels=300, max_aspect=3))
    with pytest.raises(TooLarge, match="30 x 10 pixels"):
        load_image(data, limits=ImageLimits(max_pixels=299))
    with pytest.raises(TooLarge, match=f"{len(data)} bytes"):
        load_image(data, limits=ImageLimits(max_bytes=len(data) - 1))
    with pytest.raises(InputError, match="too narrow"):
        load_image(data, limits=ImageLimits(max_aspect=2.9))


def test_postscript_starts_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    for name in ("Popen", "run", "call", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, name, refuse)
    for case in hostile_images():
        if "EPS" in case.name:
            with pytest.raises(InputError, match="PostScript"):
                load_image(case.data)


WHOLE = [
    *(encoded(picture(), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")),
    *(encoded(picture(), "TIFF", compression=name) for name in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")),
    encoded(picture(), "JPEG", progressive=True),
    encoded(picture().convert("P"), "PNG", transparency=3),
    encoded(picture(), "WEBP", lossless=True),
    encoded(picture(), "GIF", save_all=True, append_images=[picture().rotate(90)]),
    oriented(6),
    oriented(6, "PNG"),
    gray_tiff(),
]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_changed_files_raise_nothing_else(data: st.DataObject) -> None:
    """Bytes overwritten, cut out or doubled, more often near the start, where the structure is."""
    file = bytearray(data.draw(st.sampled_from(WHOLE)))
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.one_of(st.integers(0, min(200, len(file))), st.integers(0, len(file))))
        stop = start + data.draw(st.integers(0, 8))
        file[start:stop] = data.draw(
            st.one_of(st.binary(max_size=8), st.just(bytes(stop - start)), st.just(bytes(file[start:stop]) * 2))
        )
    try:
        image = load_image(bytes(file), limits=ImageLimits(max_pixels=1_000_000))
    except InputError:
        return
    assert image.mode == "RGB"
    assert image.width * image.height <= 1_000_000


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_oriented_files_are_read_upright(orientation: int, kind: str) -> None:
    got = np.asarray(load_image(oriented(orientation, kind)), int)
    assert np.abs(got - np.asarray(picture(), int)).max() <= (6 if kind == "JPEG" else 0)


def test_transparency_is_laid_over_white() -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = 0, 51, 255
    expected = [255, 204, 0]
    for image in (Image.fromarray(rgba), Image.fromarray(rgba).convert("LA")):
        assert np.asarray(load_image(encoded(image, "PNG")))[0].tolist() == [[v] * 3 for v in expected]
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "L").convert("P")
    data = encoded(palette, "PNG", transparency=bytes([0, 51, 255]))
    assert np.asarray(load_image(data))[0, :, 0].tolist() == [255, 204, 2]
    clear = encoded(palette, "GIF", transparency=1)
    assert np.asarray(load_image(clear))[0, :, 0].tolist() == [0, 255, 2]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_the_upper_eight(kind: str) -> None:
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    assert np.asarray(load_image(encoded(Image.fromarray(values), kind)))[0, :, 0].tolist() == [0, 0, 1, 128, 255]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_values_without_a_range_are_stretched(dtype: Any) -> None:
    image = Image.fromarray(np.array([[-1000, 0, 1000]], dtype))
    assert np.asarray(load_image(encoded(image, "TIFF")))[0, :, 0].tolist() == [0, 128, 255]


def test_other_modes() -> None:
    for mode, kind in (("L", "PNG"), ("1", "PNG"), ("P", "PNG"), ("P", "BMP"), ("CMYK", "TIFF"), ("LAB", "TIFF")):
        image = Image.new(mode, (9, 9), "gray") if mode == "LAB" else picture().convert(mode)
        np.testing.assert_array_equal(load_image(encoded(image, kind)), image.convert("RGB"), err_msg=mode)
    ink = load_image(encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", quality=100))
    assert np.abs(np.asarray(ink, int) - [0, 255, 255]).max() <= 2


def test_the_first_frame_is_read() -> None:
    first, second = Image.new("RGB", (8, 8), (200, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 200))
    for kind, options in {
        "GIF": {},
        "PNG": {},
        "WEBP": {"lossless": True},
        "TIFF": {},
        "MPO": {"quality": 100},
    }.items():
        data = encoded(first, kind, save_all=True, append_images=[second], **options)
        assert np.abs(np.asarray(load_image(data), int) - [200, 0, 0]).max() <= 2, kind


def resampled(pixels: NDArray[Any], size: int, cubic: bool) -> NDArray[np.float64]:
    """Independent antialiased resampling of the first axis: the kernel as wide as the scale, weights summing to one."""
    scale = pixels.shape[0] / size
    centre = (np.arange(size) + 0.5)[:, None] * scale
    t = np.abs((np.arange(pixels.shape[0]) + 0.5)[None] - centre) / max(scale, 1)
    weights = np.clip(1 - t, 0, None)
    if cubic:
        inner, outer = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
        weights = np.where(t < 1, inner, np.where(t < 2, outer, 0))
    return np.tensordot(weights / weights.sum(1, keepdims=True), pixels.astype(np.float64), 1)


@pytest.mark.parametrize("preprocessing", [SMALL, HALVES], ids=["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(16, 20), (64, 48), (7, 90), (300, 200), (1, 1)])
def test_array_follows_the_formula(shape: tuple[int, int], preprocessing: ImagePreprocessing) -> None:
    image = picture(*shape)
    cubic = preprocessing.resample == "bicubic"
    height, width = preprocessing.size
    wide = resampled(np.asarray(image).swapaxes(0, 1), width, cubic).clip(0, 255)
    pixels = resampled(wide.swapaxes(0, 1), height, cubic).clip(0, 255)
    expected = (pixels / 255 - preprocessing.mean) / preprocessing.std
    got = image_array(encoded(image, "PNG"), preprocessing)
    assert got.flags.c_contiguous
    # Pillow rounds to whole levels after either axis.
    level = 1.6 / 255 / np.asarray(preprocessing.std) if shape != preprocessing.size else 1e-6
    assert (np.abs(got.transpose(1, 2, 0) - expected) < level).all()


def test_array_is_exactly_pillow_then_float32() -> None:
    image = picture(90, 70)
    resized = np.asarray(image.resize((20, 16), Image.Resampling.BICUBIC)).astype(np.float32)
    expected = ((resized / np.float32(255) - np.float32(0.5)) / np.float32(0.5)).transpose(2, 0, 1)
    np.testing.assert_array_equal(image_array(image, HALVES), expected)
    np.testing.assert_array_equal(image_array(encoded(image, "PNG"), HALVES), expected)


@pytest.mark.parametrize(
    ("shape", "resized", "corner"),
    [
        ((90, 70), (41, 32), (12, 6)),
        ((70, 90), (32, 41), (8, 10)),
        ((32, 32), (32, 32), (8, 6)),
        ((33, 100), (32, 96), (8, 38)),
    ],
)
def test_shorter_side_and_middle(shape: tuple[int, int], resized: tuple[int, int], corner: tuple[int, int]) -> None:
    """The sizes and corners that torchvision's Resize(32) and CenterCrop((16, 20)) come to."""
    image, (top, left) = picture(*shape), corner
    whole = np.asarray(image.resize(resized[::-1], Image.Resampling.BILINEAR))
    plain = ImagePreprocessing(size=(16, 20), shorter_side=32, mean=(0,) * 3, std=(1,) * 3)
    got = np.rint(image_array(image, plain) * 255).transpose(1, 2, 0)
    np.testing.assert_array_equal(got, whole[top : top + 16, left : left + 20])


def test_several_threads_read_as_one() -> None:
    files = [case.data for case in hostile_images() if case.expected == "ok" and len(case.data) < 100_000]
    alone = [image_array(data, SMALL) for data in files]
    with ThreadPoolExecutor(8) as pool:
        for expected, got in zip(alone * 3, pool.map(lambda data: image_array(data, SMALL), files * 3), strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.skipif(not FOOD.is_dir(), reason="the folder shared/data/food is not beside the project")
def test_real_photographs() -> None:
    food = ImagePreprocessing()
    for path in sorted(FOOD.glob("*.jpg"))[:20]:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)) / 255
        expected = (pixels - food.mean) / food.std
        assert np.abs(image_array(data, food).transpose(1, 2, 0) - expected).max() < 2e-6


def test_preprocessing_is_stored_in_a_manifest() -> None:
    declared = ImagePreprocessing(size=(224, 192), shorter_side=256, resample="bicubic", max_pixels=10**6)
    assert ImagePreprocessing.model_validate_json(declared.model_dump_json()) == declared
    for wrong in ({"size": (0, 5)}, {"std": (1, 0, 1)}, {"shorter_side": 100}, {"crop": True}, {"resample": "lanczos"}):
        with pytest.raises(ValidationError):
            ImagePreprocessing.model_validate(wrong)
