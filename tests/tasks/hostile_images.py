"""Image files as strangers send them, made by code: whole ones of rare kinds, damaged ones, bombs and other files."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from tests.hostile import Case
from wander.errors import InputError, TooLarge, UnsupportedMedia


@functools.cache
def hostile_images() -> list[Case]:
    """All cases. The largest file has 10 MB, and none takes long to make."""
    return [*_whole(), *_metadata(), *_damaged(), *_bombs(), *_other_files()]


def picture(height: int = 24, width: int = 36) -> Image.Image:
    """A small RGB picture without symmetry."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 255 // width, y * 255 // height, (x + 2 * y) % 256], -1).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(width: int, height: int, rows: bytes, depth: int = 8, color: int = 2, extra: bytes = b"") -> bytes:
    """`color` is 0 gray, 2 RGB, 3 palette, 4 gray and alpha, 6 RGBA; `rows` as they are before compression."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(entries: list[tuple[int, int, int, int]], body: bytes = b"", following: int = 0) -> bytes:
    """A little-endian TIFF, or EXIF data: entries are tag, type, count, value; `body` starts behind the directory."""
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + struct.pack("<I", following) + body


def gray_tiff(width: int = 4, height: int = 4, pixels: bytes = bytes(16), following: int = 0, **extra: int) -> bytes:
    """Uncompressed 8-bit gray; `extra` sets further tags, as `t40000=1`, or changes these."""
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 0, 277: 1, 278: height, 279: len(pixels)}
    tags |= {int(name[1:]): value for name, value in extra.items()}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    return tiff([(tag, 4, 1, value) for tag, value in sorted(tags.items())], pixels, following)


def with_exif(jpeg: bytes, exif: bytes) -> bytes:
    """A JPEG with EXIF data in as many segments as they take; without JFIF, as cameras write it."""
    assert jpeg[2:4] == b"\xff\xe0"
    rest = jpeg[4 + int.from_bytes(jpeg[4:6]) :]
    parts = [exif[i : i + 65000] for i in range(0, len(exif), 65000)]
    return jpeg[:2] + b"".join(segment(0xE1, b"Exif\0\0" + part) for part in parts) + rest


def segment(code: int, data: bytes) -> bytes:
    return bytes([0xFF, code]) + struct.pack(">H", len(data) + 2) + data


def oriented(orientation: int, kind: str = "JPEG") -> bytes:
    """A picture stored so that `orientation` turns it upright: `picture()`, up to compression."""
    undo = [None, None, 0, 3, 1, 5, 2, 6, 4][orientation]
    stored = picture() if undo is None else picture().transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[274] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    return encoded(stored, kind, exif=exif, **options)


def _whole() -> Iterator[Case]:
    rgb = picture()
    rgba = rgb.convert("RGBA")
    rgba.putalpha(rgb.getchannel(0))
    gray16 = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        yield Case(f"{kind} as it is saved", encoded(rgb, kind), "ok")
    yield Case("progressive JPEG", encoded(rgb, "JPEG", progressive=True), "ok")
    yield Case("gray JPEG", encoded(rgb.convert("L"), "JPEG"), "ok")
    yield Case("CMYK JPEG", encoded(rgb.convert("CMYK"), "JPEG"), "ok")
    yield Case("MPO", encoded(rgb, "MPO", save_all=True, append_images=[rgb]), "ok", "two JPEGs in one file")
    yield Case("1-bit PNG", encoded(rgb.convert("1"), "PNG"), "ok")
    yield Case("palette PNG", encoded(rgb.convert("P"), "PNG"), "ok")
    yield Case("palette PNG with tRNS", encoded(rgb.convert("P"), "PNG", transparency=bytes(range(256))), "ok")
    yield Case("palette PNG with one clear colour", encoded(rgb.convert("P"), "PNG", transparency=3), "ok")
    yield Case("gray and alpha PNG", encoded(rgba.convert("LA"), "PNG"), "ok")
    yield Case("RGBA PNG", encoded(rgba, "PNG"), "ok")
    yield Case("RGBA WebP", encoded(rgba, "WEBP"), "ok")
    yield Case("16-bit gray PNG", encoded(Image.fromarray(gray16), "PNG"), "ok")
    clear = chunk(b"tRNS", struct.pack(">H", 300))
    yield Case("16-bit gray PNG with tRNS", png(2, 2, (b"\0" + bytes(4)) * 2, 16, 0, clear), "ok")
    clear = chunk(b"tRNS", struct.pack(">HHH", 300, 60000, 1))
    yield Case("16-bit RGB PNG with tRNS", png(2, 2, (b"\0" + bytes(12)) * 2, 16, 2, clear), "ok")
    yield Case("I;16 TIFF", encoded(Image.fromarray(gray16), "TIFF"), "ok")
    yield Case("32-bit integer TIFF", encoded(Image.fromarray(gray16.astype(np.int32)), "TIFF"), "ok")
    yield Case("float TIFF", encoded(Image.fromarray(gray16.astype(np.float32)), "TIFF"), "ok")
    extremes = np.array([[-3.4e38, 0], [1, 3.4e38]], np.float32)
    yield Case("float TIFF of the whole range", encoded(Image.fromarray(extremes), "TIFF"), "ok")
    yield Case("constant float TIFF", encoded(Image.fromarray(np.full((3, 3), 1e-40, np.float32)), "TIFF"), "ok")
    yield Case("CMYK TIFF", encoded(rgb.convert("CMYK"), "TIFF"), "ok")
    yield Case("LAB TIFF", encoded(Image.new("LAB", (5, 5)), "TIFF"), "ok")
    yield Case("deflate TIFF", encoded(rgb, "TIFF", compression="tiff_adobe_deflate"), "ok")
    yield Case("LZW TIFF", encoded(rgb, "TIFF", compression="tiff_lzw"), "ok")
    yield Case("JPEG in TIFF", encoded(rgb, "TIFF", compression="jpeg"), "ok")
    yield Case("multi-page TIFF", encoded(rgb, "TIFF", save_all=True, append_images=[rgb] * 20), "ok", "first page")
    noise = np.random.default_rng(0).integers(0, 256, (1000, 8, 8), np.uint8)
    first, *others = [Image.fromarray(frame) for frame in noise]
    yield Case("GIF of 1,000 frames", encoded(first, "GIF", save_all=True, append_images=others), "ok", "the first one")
    more = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(1, 30)]
    for kind in ("PNG", "WEBP"):
        yield Case(f"animated {kind}", encoded(picture(8, 8), kind, save_all=True, append_images=more), "ok")
    yield Case("1 x 1", encoded(Image.new("RGB", (1, 1)), "PNG"), "ok")
    yield Case("1 x 50", encoded(Image.new("RGB", (1, 50)), "PNG"), "ok")
    yield Case("20,000 x 300", encoded(Image.new("L", (20000, 300)), "PNG"), "ok", "wide, but within the limits")
    bottom_up = encoded(rgb, "BMP")
    top_down = bottom_up[:22] + struct.pack("<i", -rgb.height) + bottom_up[26:]
    yield Case("BMP with negative height", top_down, "ok", "rows from top to bottom")
    yield Case("JPEG with trailing garbage", encoded(rgb, "JPEG") + bytes(range(256)) * 4000, "ok", "as motion photos")
    yield Case("JPEG and ZIP polyglot", encoded(rgb, "JPEG") + b"PK\x03\x04" + bytes(100), "ok", "read as JPEG alone")
    yield Case("GIF and script polyglot", encoded(rgb, "GIF") + b"=1;alert(1)//", "ok", "read as GIF alone")
    yield Case("PNG without end", encoded(rgb, "PNG")[:-12], "ok", "the picture is whole")


def _metadata() -> Iterator[Case]:
    """Whole pictures, of which nothing but the metadata is hostile or broken."""
    jpeg, small = encoded(picture(), "JPEG"), (b"\0" + bytes(30)) * 10
    for orientation in range(1, 9):
        yield Case(f"orientation {orientation}", oriented(orientation), "ok")
    yield Case("orientation 60,000", with_exif(jpeg, tiff([(274, 3, 1, 60000)])), "ok")
    yield Case("orientation as text", with_exif(jpeg, tiff([(274, 2, 4, 0x41414141)])), "ok")
    yield Case("broken EXIF", with_exif(jpeg, b"II*\0\xff\xff\xff\xff"), "ok")
    yield Case("EXIF that is cut", with_exif(jpeg, tiff([(274, 3, 1, 6)] * 9)[:50]), "ok")
    yield Case("EXIF that says nothing", with_exif(jpeg, b"hello"), "ok")
    wide = [(40000 + i, 1, 190_000, 0) for i in range(16_000)]
    yield Case("EXIF that unfolds to 3 GB", with_exif(jpeg, tiff(wide)), "ok", "16,000 tags of the same 190,000 bytes")
    yield Case("huge EXIF", with_exif(jpeg, tiff([]) + bytes(5_000_000)), "ok")
    yield Case("EXIF hidden behind a length", _hidden_exif(jpeg), "ok", "a decoder that miscounts reads it")
    yield Case("broken ICC profile", encoded(picture(), "JPEG", icc_profile=b"no profile"), "ok")
    yield Case("huge ICC profile", encoded(picture(), "JPEG", icc_profile=bytes(3_000_000)), "ok")
    yield Case("broken MPF", jpeg[:2] + segment(0xE2, b"MPF\0II*\0\xff\xff\xff\xff") + jpeg[2:], "ok")
    yield Case("Photoshop blocks", jpeg[:2] + segment(0xED, b"Photoshop 3.0\0" + b"8BIM" * 99) + jpeg[2:], "ok")
    folded = zlib.compress(bytes(10**7), 9)
    for kind, start in {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}.items():
        data = png(10, 10, small, extra=chunk(kind, start + folded))
        yield Case(f"PNG with 10 MB in a {kind.decode()} of 10 kB", data, "ok", "never unfolded")
    yield Case("PNG with 5 MB of text", png(10, 10, small, extra=chunk(b"tEXt", b"a\0" + b"x" * 5_000_000)), "ok")
    yield Case("PNG with a broken acTL", png(10, 10, small, extra=chunk(b"acTL", b"abc")), "ok")
    yield Case("PNG with a broken eXIf", png(10, 10, small, extra=chunk(b"eXIf", b"MM\0*\0\0")), "ok")
    gif, comment = encoded(picture(), "GIF"), b"!\xfe" + (b"\xff" + b"a" * 255) * 40_000 + b"\0"
    head = 13 + (3 << (gif[10] & 7) + 1)
    yield Case("GIF with a comment of 10 MB", gif[:head] + comment + gif[head:], "ok", "quadratic in Pillow")
    yield Case("TIFF with absurd tags", gray_tiff(t282=0, t700=2**31, t34665=8, t65000=2**32 - 1), "ok")
    yield Case("TIFF whose directories form a loop", gray_tiff(following=8), "ok")
    yield Case("TIFF on the way to nowhere", gray_tiff(following=2**32 - 2), "ok")


def _hidden_exif(jpeg: bytes) -> bytes:
    """An extension marker, whose payload Pillow would scan for markers, holds EXIF data."""
    hidden = segment(0xE1, b"Exif\0\0" + tiff([(40000 + i, 1, 30_000, 0) for i in range(2000)], bytes(9000)))
    return jpeg[:2] + segment(0xF0, hidden) + jpeg[20:]


def _damaged() -> Iterator[Case]:
    for kind, options in {
        "JPEG": {},
        "PNG": {},
        "WEBP": {},
        "GIF": {},
        "BMP": {},
        "TIFF": {"compression": "raw"},
    }.items():
        data = encoded(picture(), kind, **options)
        for share in (0.02, 0.3, 0.6, 0.95):
            kept = max(12, int(share * len(data)))
            yield Case(f"{kind} cut after {share:.0%}", data[:kept], InputError)
    whole = encoded(picture(), "PNG")
    yield Case("PNG with a wrong checksum", whole[:29] + b"\0\0\0\0" + whole[33:], InputError, "of its header")
    yield Case("PNG with broken pixels", whole[:60] + bytes(20) + whole[80:], InputError)
    yield Case("PNG of 0 x 10 pixels", png(0, 10, b""), InputError)
    yield Case("PNG without pixels", png(10, 10, b""), InputError)
    yield Case("PNG of fewer rows than it says", png(10, 10, (b"\0" + bytes(30)) * 3), "ok", "the rest is black")
    yield Case("PNG without chunks", whole[:8], InputError)
    jpeg = encoded(picture(), "JPEG")
    start = jpeg.index(b"\xff\xc0")
    yield Case("JPEG of height 0", jpeg[: start + 5] + b"\0\0" + jpeg[start + 7 :], InputError)
    yield Case(
        "JPEG larger than its scans",
        jpeg[: start + 5] + b"\x08\x00\x08\x00" + jpeg[start + 9 :],
        "ok",
        "the rest is gray",
    )
    yield Case("JPEG without a scan", jpeg[: jpeg.index(b"\xff\xda")] + b"\xff\xd9", InputError)
    gif = encoded(picture(), "GIF")
    frame = gif.index(b",", 13 + (3 << (gif[10] & 7) + 1))
    yield Case("GIF with a frame of 0 x 0", gif[: frame + 5] + bytes(4) + gif[frame + 9 :], InputError)
    yield Case("GIF without frames", gif[:13] + b";", InputError)
    yield Case("WebP of no known kind", b"RIFF\x10\0\0\0WEBPVP8?" + bytes(40), InputError)
    yield Case("BMP that is text", b"BMW builds cars, and this is a sentence about them.", InputError)
    yield Case("TIFF without directory", b"II*\0\xff\xff\xff\x7f" + bytes(50), InputError)
    yield Case("TIFF without tags", tiff([]), InputError)
    yield Case("TIFF with strips outside", gray_tiff(pixels=b"", t279=16), InputError)
    yield Case(
        "TIFF with 6 MB of offsets", gray_tiff()[:8] + tiff([(273, 4, 1_500_000, 0)], bytes(6_000_000))[8:], InputError
    )
    holes = np.array([[np.nan, 1], [np.inf, 2]], np.float32)
    yield Case("float TIFF with NaN", encoded(Image.fromarray(holes), "TIFF"), InputError)


def _bombs() -> Iterator[Case]:
    yield Case("PNG that claims 50,000 x 50,000", png(50_000, 50_000, b""), TooLarge)
    yield Case("PNG that claims 2^31 x 2^31", png(2**31 - 1, 2**31 - 1, b""), TooLarge)
    yield Case(
        "PNG of 12,000 x 12,000 zeros", png(12_000, 12_000, bytes(10**7), 1, 0), TooLarge, "between Pillow's limits"
    )
    jpeg = encoded(picture(), "JPEG")
    start = jpeg.index(b"\xff\xc0")
    yield Case("JPEG that claims 65,500 x 65,500", jpeg[: start + 5] + b"\xff\xdc" * 2 + jpeg[start + 9 :], TooLarge)
    yield Case("GIF that claims 65,535 x 65,535", b"GIF89a" + b"\xff" * 4 + encoded(picture(), "GIF")[10:], TooLarge)
    bmp = encoded(picture(), "BMP")
    yield Case("BMP that claims 60,000 x 60,000", bmp[:18] + struct.pack("<ii", 60_000, 60_000) + bmp[26:], TooLarge)
    yield Case("TIFF that claims 60,000 x 60,000", gray_tiff(60_000, 60_000), TooLarge)
    body = b"WEBPVP8X" + struct.pack("<II", 10, 0) + b"\xfe\x3f\0" * 2 + encoded(picture(), "WEBP")[12:]
    claims = b"RIFF" + struct.pack("<I", len(body)) + body
    yield Case("WebP that claims 16,383 x 16,383", claims, InputError, "libwebp finds that the frame does not fill it")
    black = encoded(Image.new("L", (16_000, 2_000)), "WEBP", lossless=True)
    yield Case("WebP of 16,000 x 2,000", black, TooLarge, "32 million pixels in a few hundred bytes")
    yield Case("20,000 x 1", encoded(Image.new("RGB", (20_000, 1)), "PNG"), InputError, "too narrow")
    yield Case("1 x 20,000", encoded(Image.new("RGB", (1, 20_000)), "PNG"), InputError, "too narrow")
    yield Case("21 MB of bytes", encoded(picture(), "JPEG") + bytes(21 << 20), TooLarge)
    flat = encoded(Image.new("L", (2000, 2000), 128), "JPEG", progressive=True)
    scans = flat[flat.rindex(b"\xff\xda") : -2] * 20_000
    yield Case("JPEG of 20,000 scans", flat[:-2] + scans + b"\xff\xd9", InputError, "minutes in libjpeg")
    many = jpeg[:2] + segment(0xFE, b"") * 200_000 + jpeg[2:]
    yield Case("JPEG of 200,000 segments", many, InputError)
    yield Case("JPEG of 5 MB of fill bytes", jpeg[:2] + b"\xff" * 5_000_000 + jpeg[2:], "ok")
    yield Case("JPEG of fill bytes alone", b"\xff\xd8" + b"\xff" * 5_000_000, InputError)
    small = (b"\0" + bytes(30)) * 10
    yield Case("PNG of 500,000 chunks", png(10, 10, small, extra=chunk(b"prVt", b"") * 500_000), InputError)
    rle = bmp[:30] + struct.pack("<I", 1) + bmp[34:]
    for name, number in {"fax": 4, "LZMA": 34925, "WebP": 50001, "no known compression": 99}.items():
        expected = InputError if number == 99 else UnsupportedMedia
        yield Case(f"TIFF with {name}", gray_tiff(t259=number), expected)
    yield Case("run-length BMP", rle[:28] + struct.pack("<H", 8) + rle[30:], UnsupportedMedia, "decoded in Python")


def _other_files() -> Iterator[Case]:
    yield Case("nothing", b"", InputError)
    yield Case("one byte", b"\xff", InputError)
    yield Case("random bytes", np.random.default_rng(0).bytes(10_000), InputError)
    yield Case("zeros", bytes(10_000), InputError)
    yield Case("text", b"a photo of a carrot cake", InputError)
    yield Case("base64 of an image", b"iVBORw0KGgoAAAANSUhEUgAA", InputError)
    yield Case("JSON", b'{"image": 1}', InputError)
    others = {
        "HTML": b"<!DOCTYPE html><html><img src=x></html>",
        "SVG": b'\n <?xml version="1.0"?><!DOCTYPE s [<!ENTITY a "aa">]><svg xmlns="http://www.w3.org/2000/svg"/>',
        "SVG without prologue": b'<svg xmlns="http://www.w3.org/2000/svg" onload="x()"/>',
        "PDF": b"%PDF-1.7\n1 0 obj",
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (w) file",
        "EPS in DOS form": b"\xc5\xd0\xd3\xc6" + struct.pack("<6I", 30, 9, 0, 0, 0, 0) + b"%!PS-Adobe",
        "ZIP": b"PK\x03\x04" + bytes(30),
        "gzip": b"\x1f\x8b\x08" + bytes(30),
        "MP4": b"\0\0\0\x20ftypisom" + bytes(30),
        "HEIC": b"\0\0\0\x18ftypheic" + bytes(30),
        "AVIF": b"\0\0\0\x1cftypavif" + bytes(30),
        "AVI": b"RIFF\0\0\0\0AVI LIST" + bytes(30),
        "WAV": b"RIFF\0\0\0\0WAVEfmt " + bytes(30),
        "Matroska": b"\x1aE\xdf\xa3" + bytes(30),
        "PSD": b"8BPS\0\x01" + bytes(30),
        "BigTIFF": b"II+\0\x08\0\0\0" + bytes(30),
        "JPEG XL": b"\xff\x0a" + bytes(30),
        "ICO": encoded(picture(32, 32), "ICO"),
        "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(30),
        "Netpbm": encoded(picture(), "PPM"),
    }
    for name, data in others.items():
        yield Case(name, data, UnsupportedMedia)
