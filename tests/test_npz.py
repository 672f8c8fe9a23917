"""Files from strangers: whatever they hold, `read_npz` gives arrays of numbers or raises an InputError."""

from __future__ import annotations

import io
import struct
import tracemalloc
import warnings
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy

from tests.serving.building import npz
from wander.errors import InputError, MalformedBody, TooLarge
from wander.npz import MAX_ARRAYS, read_npz

LIMIT = 1 << 20
GOOD = npz(text=np.arange(12, dtype=np.float32).reshape(3, 4), audio=np.arange(6, dtype=np.int64).reshape(2, 3))


def member(header: str | bytes, data: bytes = b"", version: int = 1) -> bytes:
    """An .npy file with a header of one's own."""
    header = header.encode("latin-1") if isinstance(header, str) else header
    size = struct.pack("<H" if version == 1 else "<I", len(header))
    return npy.MAGIC_PREFIX + bytes([version, 0]) + size + header + data


def archive(*members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as written, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of a name that stands there twice
        for name, data in members:
            written.writestr(name, data)
    return buffer.getvalue()


def described(descr: str = "'<f4'", order: str = "False", shape: str = "(3,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8", "<f2", "<i8", ">i4", "|i1", "|u1", "|b1", "<u2"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(dtype: str, order: Any, save: Any) -> None:
    array = np.asarray(np.arange(24).reshape(2, 3, 4) % 2, dtype, order=order)
    buffer = io.BytesIO()
    save(buffer, x=array, y=array[0], z=array[0, 0, 0, ...])
    arrays = read_npz(buffer.getvalue(), LIMIT)
    assert list(arrays) == ["x", "y", "z"]
    for name, expected in zip("xyz", (array, array[0], array[0, 0, 0, ...]), strict=True):
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], expected)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_format(version: tuple[int, int]) -> None:
    buffer = io.BytesIO()
    npy.write_array(buffer, np.ones(3, np.float32), version)
    assert read_npz(archive(("x.npy", buffer.getvalue())), LIMIT)["x"].tolist() == [1, 1, 1]


def test_objects_are_not_unpickled() -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (pytest.fail, ("it was unpickled",))

    trap = np.empty(1, object)
    trap[0] = Trap()
    with pytest.raises(MalformedBody, match="x is not an array of numbers"):
        read_npz(npz(x=trap), LIMIT)


@pytest.mark.parametrize(
    "array",
    [
        np.array(["a", "b"]),
        np.array([b"a"]),
        np.array([1j]),
        np.array(["2026-01-01"], "datetime64[D]"),
        np.array([(1, 2.0)], [("a", "i4"), ("b", "f4")]),
        np.zeros(2, "V4"),
    ],
    ids=lambda array: str(array.dtype),
)
def test_only_numbers(array: Any) -> None:
    with pytest.raises(MalformedBody) as caught:
        read_npz(npz(x=array), LIMIT)
    assert caught.value.field == "x"


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        *[(shape, 12) for shape in ("(1000000000000,)", "(1000000, 1000000)", "(-1,)", "(-1, -3)", "(4,)", "(2,)")],
        *[(shape, 12) for shape in ("(True, 3)", "(3.0,)", "3", "[3]", "()", "(3, " + "1, " * 100 + ")")],
        *[(shape, 0) for shape in ("(0,)", "(1000000000, 0, 4)", f"(0, {10**30})")],
    ],
)
def test_shape_must_be_that_of_the_data(shape: str, size: int) -> None:
    with pytest.raises(InputError) as caught:
        read_npz(archive(("x.npy", member(described(shape=shape), bytes(size)))), LIMIT)
    assert caught.value.field == "x"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "{",
        "{}",
        "[]",
        "3",
        "'" * 50,
        "__import__('os').abort()",
        "(" * 3000,
        "-" * 3000 + "1",
        "{[]: 1}",
        described(descr="'<f3'"),
        described(descr="'<f99'"),
        described(descr="'f4,f4'"),
        described(descr="'(3,)f4'"),
        described(descr="'O'"),
        described(descr="('<f4',)"),
        described(descr="[('a', '<f4')]"),
        described(descr="3"),
        described(descr="None"),
        described(order="3"),
        described(order="'no'"),
        described() + " trailing",
        described(shape="(3L,)"),
        b"\xff\xfe\x00",
        "\x00" * 20,
        " " * 5000 + described(),
    ],
    ids=lambda header: repr(header)[:40],
)
@pytest.mark.parametrize("version", [1, 2, 9])
def test_strange_headers(header: str | bytes, version: int) -> None:
    with pytest.raises(MalformedBody) as caught:
        read_npz(archive(("x.npy", member(header, bytes(12), version))), LIMIT)
    assert caught.value.field == "x"


def test_bomb_is_not_unpacked() -> None:
    zeros = member(described(shape="(16777216,)"), bytes(1 << 26))
    bomb = archive(("x.npy", zeros), compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < LIMIT
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            read_npz(bomb, LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < LIMIT


def test_bomb_that_denies_its_size() -> None:
    """The directory says ten bytes; what is packed are many more."""
    packed = bytearray(archive(("x.npy", bytes(1 << 24)), compression=zipfile.ZIP_DEFLATED))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", packed, packed.index(signature) + offset, 10)
    tracemalloc.start()
    try:
        with pytest.raises(MalformedBody):
            read_npz(bytes(packed), LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < LIMIT


def test_limits_are_of_the_sum() -> None:
    half = np.zeros(LIMIT // 8, np.float32)
    assert len(read_npz(npz(x=half), LIMIT)) == 1
    with pytest.raises(TooLarge):
        read_npz(npz(x=half, y=half), LIMIT)


@pytest.mark.parametrize(("count", "fits"), [(MAX_ARRAYS, True), (MAX_ARRAYS + 1, False)])
def test_number_of_arrays(count: int, fits: bool) -> None:
    body = npz(**{f"x{number}": np.ones(1) for number in range(count)})
    if fits:
        assert len(read_npz(body, LIMIT)) == count
    else:
        with pytest.raises(TooLarge, match=str(MAX_ARRAYS)):
            read_npz(body, LIMIT)


GOOD_MEMBER = member(described(), bytes(12))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"PK",
        GOOD_MEMBER,
        archive(("x.npy", GOOD_MEMBER), ("x.npy", GOOD_MEMBER)),
        archive(("x.txt", GOOD_MEMBER)),
        archive(("x", GOOD_MEMBER)),
        archive(("x.npy/", b"")),
        archive(("x.npy", b"")),
        archive(("x.npy", GOOD_MEMBER), compression=zipfile.ZIP_BZIP2),
        archive(("x.npy", GOOD_MEMBER), compression=zipfile.ZIP_LZMA),
        archive(("x.npy", npz(y=np.ones(3)))),
    ],
    ids=["empty", "two bytes", "npy", "twice", "other name", "no suffix", "folder", "no data", "bz2", "lzma", "nested"],
)
def test_what_is_no_npz(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        read_npz(body, LIMIT)


def test_encrypted_member() -> None:
    body = bytearray(archive(("x.npy", GOOD_MEMBER)))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        body[body.index(signature) + offset] |= 1
    with pytest.raises(MalformedBody):
        read_npz(bytes(body), LIMIT)


def test_empty_archive_holds_no_array() -> None:
    assert read_npz(archive(), LIMIT) == {}


@pytest.mark.parametrize("length", range(0, len(GOOD), max(1, len(GOOD) // 60)))
def test_truncated(length: int) -> None:
    with pytest.raises(MalformedBody):
        read_npz(GOOD[:length], LIMIT)


def _only_input_errors(body: bytes) -> None:
    try:
        arrays = read_npz(body, LIMIT)
    except InputError:
        return
    assert all(isinstance(array, np.ndarray) and array.dtype.kind in "biuf" for array in arrays.values())
    assert sum(array.nbytes for array in arrays.values()) <= LIMIT


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"", b"PK\x03\x04", b"PK\x05\x06", b"\x93NUMPY\x01\x00"]))
def test_random_bytes(tail: bytes, start: bytes) -> None:
    _only_input_errors(start + tail)
    _only_input_errors(archive(("x.npy", start + tail)))


@settings(max_examples=600, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4))
@example([(GOOD.index(b"PK\x01\x02") + 10, 14), (8, 14)])  # compressed with LZMA
@example([(GOOD.index(b"PK\x01\x02") + 9, 8), (GOOD.index(b"PK\x01\x02") + 46, 255)])  # a name that is not UTF-8
def test_mutated_files(changes: list[tuple[int, int]]) -> None:
    body = bytearray(GOOD)
    for place, value in changes:
        body[place] = value
    _only_input_errors(bytes(body))


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="{}()[],:'\"\\ <f48descrhapotn_FalsTue0123-LO\n\x00", max_size=120))
def test_random_headers(header: str) -> None:
    _only_input_errors(archive(("x.npy", member(header, bytes(12)))))
