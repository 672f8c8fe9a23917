"""Image files from strangers to float32 tensors, with Pillow and numpy.

A file is first cut down to what its first picture needs. Pillow never sees metadata, thumbnails, colour profiles,
comments or later frames: a small file can make it spend gigabytes or minutes on them. Only then is it opened, measured
and decoded.

Every picture becomes 8-bit RGB, upright (by its EXIF orientation), with white behind transparency. Colour profiles are
ignored, as in training. 16-bit gray keeps its upper 8 bits; 32-bit integers and floats have no range of their own, so
that their smallest and largest values become black and white. TIFF is read in strips only, not in tiles.
"""

from __future__ import annotations

import base64
import io
import re
import struct
import warnings
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, WebPImagePlugin  # noqa: F401 - plug-ins register when they are imported
from pydantic import BaseModel, ConfigDict, Field, model_validator

from wander.errors import InputError, TooLarge, UnsupportedMedia

SEND = "send a JPEG, PNG, WebP, GIF, BMP or TIFF image"
MAX_PIECES = 20_000
"""JPEG segments, PNG chunks, GIF extensions or TIFF strips of one file. Ordinary files have fewer than 5,000."""
MAX_SCANS = 50
"""Scans of one progressive JPEG, each of which goes over the whole picture. Ordinary files have 3 to 14."""

EXAMPLE_SIDE = 32
"""Longest side of the picture of an example: one of full size would be long to read."""

warnings.filterwarnings("ignore", module=r"PIL\.")  # about strangers' files, each of which gets its answer

Side = Annotated[int, Field(ge=1, le=4096)]
Channels = tuple[float, float, float]


class ImageLimits(BaseModel):
    """What is accepted.

    Attributes:
        max_bytes: size of the file.
        max_pixels: width x height, checked before anything is decoded. Decoding takes up to 20 bytes a pixel.
        max_aspect: how many times the other one a side may be.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bytes: int = Field(default=20 << 20, ge=1)
    max_pixels: int = Field(default=25_000_000, ge=1)
    max_aspect: float = Field(default=100, ge=1)


class ImagePreprocessing(ImageLimits):
    """How a picture becomes the input of a model; part of `preprocessing` of a manifest.

    Attributes:
        size: (height, width) of the result.
        shorter_side: None to resize to `size` whatever the proportions; otherwise the shorter side is resized to this,
            the other in proportion, and the middle is cut out.
        resample: Pillow's filter, with its antialiasing.
        mean, std: per channel, of values in 0..1.
    """

    size: tuple[Side, Side] = (224, 224)
    shorter_side: Side | None = None
    resample: Literal["bilinear", "bicubic"] = "bilinear"
    mean: Channels = (0.485, 0.456, 0.406)
    std: Channels = (0.229, 0.224, 0.225)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.shorter_side is not None and self.shorter_side < max(self.size):
            raise ValueError("shorter_side must not be smaller than size")
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        return self


def image_array(
    image: bytes | Image.Image, preprocessing: ImagePreprocessing, field: str = "image"
) -> NDArray[np.float32]:
    """A file, or what `load_image` made of one, as float32 (3, height, width). Raises as `load_image` does."""
    if not isinstance(image, Image.Image):
        image = load_image(image, field, preprocessing)
    array = np.ascontiguousarray(np.asarray(_fit(_rgb(image, field), preprocessing)).transpose(2, 0, 1), np.float32)
    array /= 255
    array -= np.asarray(preprocessing.mean, np.float32)[:, None, None]
    array /= np.asarray(preprocessing.std, np.float32)[:, None, None]
    return array


def small_png(pixels: NDArray[np.float32], preprocessing: ImagePreprocessing) -> str:
    """A picture again from float32 (3, h, w) as `image_array` makes it: at most `EXAMPLE_SIDE` wide, PNG, base64."""
    mean, std = (np.asarray(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    values = np.rint((pixels * std + mean).clip(0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(values.transpose(1, 2, 0)))
    picture.thumbnail((EXAMPLE_SIDE, EXAMPLE_SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def load_image(data: bytes, field: str = "image", limits: ImageLimits | None = None) -> Image.Image:
    """A file as an upright 8-bit RGB picture.

    Raises, always naming `field`: TooLarge for a file beyond the limits, UnsupportedMedia for a kind of file that is
    known but not accepted, InputError for everything else that is not a whole picture.
    """
    limits = limits or ImageLimits()
    if not isinstance(data, bytes | bytearray | memoryview) or not len(data):
        raise InputError(f"{field} holds no bytes of an image file; {SEND}", field)
    if len(data) > limits.max_bytes:
        raise TooLarge(f"{field} has {len(data)} bytes, more than {limits.max_bytes}; compress or shrink it", field)
    data = bytes(data)
    kind = _kind(data, field)
    try:
        return _decode(data, kind, field, limits)
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLarge(f"{field} has more than {limits.max_pixels} pixels; shrink it", field) from error
    except Exception as error:
        # A decoder may raise anything at all on a damaged file.
        raise InputError(f"{field} is truncated, damaged or no ordinary {kind}; save it anew", field) from error


def _decode(data: bytes, kind: str, field: str, limits: ImageLimits) -> Image.Image:
    data, exif = _ACCEPTED[kind][1](data)
    with Image.open(io.BytesIO(data), formats=[kind]) as image:
        width, height = image.size
        if width * height > limits.max_pixels:
            raise TooLarge(f"{field} is {width} x {height} pixels, more than {limits.max_pixels}; shrink it", field)
        if max(width, height) > limits.max_aspect * min(width, height):
            raise InputError(f"{field} is {width} x {height} pixels, which is too narrow a strip; crop it", field)
        if image.info.get("compression", "raw") not in _COMPRESSIONS:
            raise UnsupportedMedia(f"{field} is a {kind} with a rare compression; save it as PNG", field)
        image.load()
        turn = _turn(exif or image.info.get("exif", b""))
        picture = _rgb(image, field)
        return picture if turn is None else picture.transpose(turn)


def _rgb(image: Image.Image, field: str) -> Image.Image:
    """Any mode as RGB, transparency over white."""
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image, field)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    paper = Image.new("RGB", image.size, "white")
    paper.paste(image, mask=image)
    return paper


def _eight_bits(image: Image.Image, field: str) -> Image.Image:
    """Gray of 16 or 32 bits as gray of 8."""
    values = np.asarray(image)
    if values.dtype.itemsize == 2:
        return Image.fromarray((values >> 8).astype(np.uint8))
    if not np.isfinite(values).all():
        raise InputError(f"{field} holds values that are not finite; save it with 8 bits a channel", field)
    low, high = float(values.min()), float(values.max())
    scaled = values.astype(np.float64)
    scaled -= low
    scaled *= 255 / (high - low) if high > low else 0
    return Image.fromarray(np.rint(scaled, out=scaled).astype(np.uint8))


def _fit(image: Image.Image, preprocessing: ImagePreprocessing) -> Image.Image:
    """Resized, and cropped if so declared; sizes are rounded as torchvision rounds them."""
    height, width = preprocessing.size
    resample = Image.Resampling[preprocessing.resample.upper()]
    short = preprocessing.shorter_side
    if short is None:
        return image.resize((width, height), resample)
    long = int(short * max(image.size) / min(image.size))
    image = image.resize((short, long) if image.width <= image.height else (long, short), resample)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def _kind(data: bytes, field: str) -> str:
    """What a file is, by its first bytes alone, for names and media types can be anything: a key of `_ACCEPTED`."""
    for kind, (magic, _) in _ACCEPTED.items():
        if re.match(magic, data, re.DOTALL):
            return kind
    for name, magic in _REFUSED.items():
        if re.match(magic, data[:1024], re.DOTALL):
            raise UnsupportedMedia(f"{field} is {name}; {SEND}", field)
    raise InputError(f"{field} is not an image; {SEND}", field)


def _trim_jpeg(data: bytes) -> tuple[bytes, bytes]:
    """The tables and scans of the first image. A second one (MPO) or a video may follow in the file."""
    kept, exif, position = [data[:2]], b"", 2
    for _ in range(MAX_PIECES):
        marker = _JPEG_MARKER.search(data, position)
        if marker is None:
            break
        code, position = marker[1][0], marker.end()
        if code == 0xDA:
            # Inside a scan, 0xFF is followed by 0 or a restart marker, so that this finds the real end and every scan.
            end = data.find(b"\xff\xd9", position)
            scans = b"\xff\xda" + data[position : end + 2 if end >= 0 else None]
            if scans.count(b"\xff\xda") > MAX_SCANS:
                break
            return b"".join((*kept, scans)), exif
        if code not in _JPEG_BARE:
            length = max(2, int.from_bytes(data[position : position + 2]))
            segment, position = data[position + 2 : position + length], position + length
            if code in _JPEG_KEPT:
                kept.append(b"\xff" + marker[1] + struct.pack(">H", len(segment) + 2) + segment)
            elif code == 0xE1 and segment.startswith(b"Exif\0\0"):
                exif = exif or segment
    raise ValueError("no scan, or too many pieces")


def _trim_png(data: bytes) -> tuple[bytes, bytes]:
    """The chunks that hold the picture (of an animation: its default image)."""
    kept, exif, position = [data[:8]], b"", 8
    for _ in range(MAX_PIECES):
        length, kind = struct.unpack_from(">I4s", data, position)
        start, position = position, position + 12 + length
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append(data[start:position])
        elif kind == b"eXIf":
            exif = data[start + 8 : position - 4]
        if kind == b"IEND" or position >= len(data):
            return b"".join(kept), exif
    raise ValueError("too many pieces")


def _trim_gif(data: bytes) -> tuple[bytes, bytes]:
    """The first frame with its graphic control extension."""
    position = head = 13 + _palette(data[10])
    control = b""
    for _ in range(MAX_PIECES):
        start, kind, label = position, data[position], data[position + 1]
        position += 2 if kind == ord("!") else 11 + _palette(data[position + 9])
        while data[position]:  # sub-blocks
            position += data[position] + 1
        position += 1
        if kind == ord(","):
            return data[:head] + control + data[start:position] + b";", b""
        if label == 0xF9:
            control = data[start:position]
    raise ValueError("too many pieces")


def _palette(flags: int) -> int:
    """Size of the palette that these flags of a GIF announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _trim_tiff(data: bytes) -> tuple[bytes, bytes]:
    """The first picture with the tags that are needed to read it. The file itself is laid out as EXIF data are."""
    order, start, entries = _directory(data)
    kept = {entry[0]: entry for entry in entries if entry[0] in _TIFF_TAGS}
    if any(count > MAX_PIECES for _, _, count, _ in kept.values()):
        raise ValueError("too many pieces")
    table = struct.pack(f"{order}H", len(kept)) + b"".join(struct.pack(f"{order}HHI4s", *e) for e in kept.values())
    return data[:start] + table + bytes(4) + data[start + len(table) + 4 :], data


def _directory(data: bytes) -> tuple[str, int, list[tuple[int, int, int, bytes]]]:
    """Byte order, place and entries (tag, type, count, value or its place) of the first directory of a TIFF."""
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    return order, start, list(struct.iter_unpack(f"{order}HHI4s", data[start + 2 : start + 2 + 12 * count]))


def _turn(exif: bytes) -> Image.Transpose | None:
    """What makes the picture upright; None if nothing readable says so, for broken metadata spoil no picture."""
    try:
        order, _, entries = _directory(exif.removeprefix(b"Exif\0\0"))
    except struct.error:
        return None
    values = [value for tag, kind, _, value in entries if (tag, kind) == (274, 3)]
    orientation = struct.unpack(f"{order}H", values[0][:2])[0] if values else 1
    return _TURNS[orientation] if orientation < len(_TURNS) else None


_JPEG_MARKER = re.compile(rb"\xff([\x01-\xfe])")
_JPEG_BARE = {0x01, *range(0xD0, 0xDA)}  # have no segment
_JPEG_KEPT = {*range(0xC0, 0xC8), *range(0xC9, 0xD0), 0xDB, 0xDD, 0xE0, 0xEE}  # tables, frame; JFIF, Adobe: the colours
_TURNS = (None, None, *map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2)))
# Size, bits, compression, colours, strips, palette, and what the compressions need.
_TIFF_TAGS = {*range(256, 260), 262, 266, 273, 277, 278, 279, 284, 317, 320, 332, 338, 339, 347, 530, 532}
# Of BMP (numbers) and TIFF. Run-length BMP is decoded in Python, fax complains on stderr of every row.
_COMPRESSIONS = (0, 3, "raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "jpeg")
_ACCEPTED = {
    "JPEG": (rb"\xff\xd8\xff", _trim_jpeg),
    "PNG": (rb"\x89PNG\r\n\x1a\n", _trim_png),
    "GIF": (rb"GIF8[79]a", _trim_gif),
    "TIFF": (rb"II\*\0|MM\0\*", _trim_tiff),
    "WEBP": (rb"RIFF....WEBP", lambda data: (data, b"")),
    "BMP": (rb"BM", lambda data: (data, b"")),
}
"""Pillow's name of a kind -> its first bytes, and what gives the trimmed file and its EXIF data."""
_REFUSED = {
    "SVG, HTML or XML": rb"(\xef\xbb\xbf)?\s*<[!?a-zA-Z]",
    "a PDF or PostScript document": rb"%PDF|%!PS|\xc5\xd0\xd3\xc6",
    "HEIC, AVIF or a video": rb"....ftyp|\x1aE\xdf\xa3|\0\0\x01\xba",
    "a sound, a video or an archive": rb"RIFF|OggS|ID3|PK[\x03\x05\x07]|\x1f\x8b|7z\xbc\xaf|Rar!",
    "an icon, PSD, BigTIFF or Netpbm": rb"\0\0[\x01\x02]\0|8BPS|II\+\0|MM\0\+|P[1-7fF]\s",
    "JPEG 2000 or JPEG XL": rb"\0\0\0\x0c(jP  |JXL )|\xff\x0a|\xff\x4f\xff\x51",
}
