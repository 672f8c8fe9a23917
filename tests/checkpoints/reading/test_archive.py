"""The containers: torch's zip and legacy formats, safetensors and bare pickles, as they should be."""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.checkpoints.conftest import (
    CONTAINERS,
    RAW,
    contain,
    legacy_file,
    legacy_storage,
    named,
    number,
    same,
    saved,
    storage,
    tensor,
    text,
)
from wander.checkpoints.reader import read, state_dict
from wander.errors import CheckpointError

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
]
ZIP_ONLY_DTYPES = [torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2]


def root_of(path: Path, data: bytes) -> Any:
    path.write_bytes(data)
    return read(path).root


def reloaded(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(dtype: torch.dtype, legacy: bool, tmp_path: Path) -> None:
    values = torch.arange(7).to(dtype)
    data = saved(
        {"a": values, "b": values[2:], "c": values[:6].view(2, 3).t(), "d": values[:0], "e": values[3]}, legacy=legacy
    )
    root = root_of(tmp_path / "model.pt", data)
    assert same(root, reloaded(data))
    assert root["c"].stride() == (1, 3)
    assert root["a"].data_ptr() + 2 * dtype.itemsize == root["b"].data_ptr(), "tensors over one storage share it"


@pytest.mark.parametrize("dtype", ZIP_ONLY_DTYPES, ids=str)
def test_dtypes_without_a_storage_class(dtype: torch.dtype, tmp_path: Path) -> None:
    data = saved({"a": torch.arange(4).to(dtype)})
    assert same(root_of(tmp_path / "model.pt", data), reloaded(data))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_parameters_and_attributes_of_tensors(legacy: bool, tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    marked = torch.nn.Parameter(torch.zeros(3))
    marked.origin = "somewhere"  # type: ignore[attr-defined]
    plain = torch.full((2,), 2.0)
    plain.origin = "elsewhere"  # type: ignore[attr-defined]
    root = root_of(tmp_path / "model.pt", saved([parameter, marked, plain, parameter.data], legacy=legacy))
    assert same(root, [torch.ones(2), torch.zeros(3), torch.full((2,), 2.0), torch.ones(2)])
    assert all(type(value) is torch.Tensor and not value.requires_grad for value in root)
    assert root[0].data_ptr() == root[3].data_ptr()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_untyped_storages(legacy: bool, tmp_path: Path) -> None:
    data = saved({"a": torch.arange(3, dtype=torch.uint8).untyped_storage()}, legacy=legacy)
    root = root_of(tmp_path / "model.pt", data)
    assert root["a"].data.tolist() == [0, 1, 2]


def test_cuda_storages_load_on_the_cpu(tmp_path: Path) -> None:
    pickled = tensor(storage(location="cuda:0"))
    root = root_of(tmp_path / "model.pt", contain("zip", pickled, {"0": struct.pack("<4f", 1, 2, 3, 4)}))
    assert root["fc.weight"].tolist() == [1, 2, 3, 4]
    assert root["fc.weight"].device.type == "cpu"


def test_tensors_lie_in_the_file_but_do_not_change_it(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    data = saved({"a": torch.zeros(1000)})
    root = root_of(path, data)
    root["a"].fill_(1.0)
    assert root["a"].sum() == 1000
    assert path.read_bytes() == data
    assert read(path).root["a"].sum() == 0  # type: ignore[index]


def test_a_large_file_is_not_read_into_memory(tmp_path: Path) -> None:
    """A sparse file of 4 GiB opens at once and costs only the pages that are touched."""
    path = tmp_path / "model.pt"
    count = 1 << 30
    head = contain("zip", tensor(storage(numel=count), shape=(count,)), {"0": b""})
    with zipfile.ZipFile(io.BytesIO(head)) as written:
        entries = {info.filename: written.read(info) for info in written.infolist()}
    with zipfile.ZipFile(path, "w") as large:
        for name, data in entries.items():
            if not name.endswith("/0"):
                large.writestr(name, data)
    with path.open("r+b") as file:
        _append_sparse_entry(file, "model/data/0", 4 * count)
    weight = read(path).root["fc.weight"]  # type: ignore[index]
    assert weight.shape == (count,)
    assert weight[count - 1] == 0


def _append_sparse_entry(file: io.BufferedRandom, name: str, size: int) -> None:
    """Adds an entry of zeros to an archive without writing them."""
    directory = _directory(file.read())
    file.seek(directory[0])
    extra = struct.pack("<HHQQ", 1, 16, size, size)
    padding = -(file.tell() + 30 + len(name) + len(extra) + 4) % 64
    extra += struct.pack("<HH", 0x4246, padding) + bytes(padding)
    fields = (45, 0, 0, 0, 0x21, 0, 0xFFFFFFFF, 0xFFFFFFFF, len(name), len(extra))
    file.write(struct.pack("<4sHHHHHIIIHH", b"PK\3\4", *fields) + name.encode() + extra)
    file.seek(size, os.SEEK_CUR)
    start = file.tell()
    more = struct.pack("<HHQQQ", 1, 24, size, size, directory[0])
    fields = (45, 45, 0, 0, 0, 0x21, 0, 0xFFFFFFFF, 0xFFFFFFFF, len(name), len(more), 0, 0, 0, 0, 0xFFFFFFFF)
    entry = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", *fields) + name.encode() + more
    file.write(directory[2] + entry)
    length = len(directory[2] + entry)
    total = directory[1] + 1
    end = file.tell()
    file.write(struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, total, total, length, start))
    file.write(struct.pack("<4sIQI", b"PK\6\7", 0, end, 1))
    file.write(struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, total, total, 0xFFFFFFFF, 0xFFFFFFFF, 0))


def _directory(data: bytes) -> tuple[int, int, bytes]:
    """Offset of the central directory, number of entries, and its bytes."""
    count, length, offset = struct.unpack("<HII", data[-12:-2])
    return offset, count, data[offset : offset + length]


def test_safetensors(tmp_path: Path) -> None:
    weights = {"a": torch.arange(3.0), "b": torch.ones(2, 2, dtype=torch.bfloat16)}
    for name in ("model.safetensors", "model.bin"):
        path = tmp_path / name
        path.write_bytes(safetensors.torch.save(weights))
        checkpoint = read(path)
        assert checkpoint.format == "safetensors"
        assert same(state_dict(checkpoint), weights)


def test_legacy_modules_and_views(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    view = b"(" + text("view") + number(1) + number(2) + b"t"
    pickled = tensor(legacy_storage(view), shape=(2,))
    assert root_of(path, legacy_file(pickled, ["0"], RAW))["fc.weight"].tolist() == [2, 3]
    module = b"(" + text("module") + named("models.net", "Net") + text("net.py") + text("class Net: ...") + b"tQ)\x81}"
    root = root_of(path, legacy_file(b"\x80\x02" + module + text("width") + b"K\x03sb.", [], b""))
    assert root.name == "models.net.Net"
    assert root.attributes == {"width": 3}


def test_legacy_storages_are_aligned(tmp_path: Path) -> None:
    for padding in range(8):
        root = root_of(tmp_path / "model.pt", saved({"x" * padding: 1, "a": torch.arange(3.0)}, legacy=True))
        assert root["a"].data_ptr() % 4 == 0
        assert root["a"].tolist() == [0, 1, 2]


_tensors = st.sampled_from(DTYPES).flatmap(
    lambda dtype: st.lists(st.integers(0, 3), max_size=3).map(lambda shape: torch.randint(0, 2, shape).to(dtype))
)
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**100), 2**100)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | _tensors,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(-9, 9), inner, max_size=4)
        | st.dictionaries(st.text(max_size=3), inner, max_size=4).map(collections.OrderedDict)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=_values)
def test_what_torch_saves_is_read_as_torch_reads_it(value: object, legacy: bool, tmp_path: Path) -> None:
    data = saved(value, legacy=legacy)
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    checkpoint = read(path)
    assert checkpoint.format == ("legacy" if legacy else "zip")
    assert same(checkpoint.root, reloaded(data))


def test_bare_pickles_are_read(tmp_path: Path) -> None:
    for kind in CONTAINERS:
        path = tmp_path / kind
        path.write_bytes(contain(kind, pickle.dumps({"a": [1, 2]}, 2)))
        checkpoint = read(path)
        assert (checkpoint.format, checkpoint.root) == (kind, {"a": [1, 2]})
    path.write_bytes(tensor(storage()))
    with pytest.raises(CheckpointError, match="outside of it"):
        read(path)


def test_the_folder_of_an_archive_has_the_name_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "best 12:30..pt"
    torch.save({"a": torch.ones(2)}, path)
    assert same(read(path).root, {"a": torch.ones(2)})
