"""Damaged, truncated and hostile files of every container: each is told in one line."""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import random
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
    RAW,
    archive,
    contain,
    legacy_file,
    legacy_storage,
    named,
    number,
    saved,
    storage,
    tensor,
    text,
)
from wander.checkpoints.reader import module_attributes, options, read, state_dict
from wander.errors import CheckpointError, UnsafeCheckpoint, WanderError


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_every_truncation_is_told(legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    data = saved({"a": torch.arange(3.0), "b": torch.zeros(2)}, legacy=legacy)
    assert read_bytes(path, data) is not None
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError) as error:
            read(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def read_bytes(path: Path, data: bytes) -> object:
    path.write_bytes(data)
    return read(path)


def test_every_truncation_of_safetensors_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    data = safetensors.torch.save({"a": torch.arange(3.0)})
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            read(path)


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../../b", "a\\b", "C:evil", "model/data/../../x"])
def test_entries_that_lead_outside_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(archive({"model/data.pkl": pickle.dumps({}, 2), name: b"x"}))
    with pytest.raises(UnsafeCheckpoint, match="leads out of the archive"):
        read(path)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["model.pt"]


def test_double_entries_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    data = archive({"model/data.pkl": pickle.dumps({}, 2), "model/data.pkx": pickle.dumps({}, 2)})
    path.write_bytes(data.replace(b"data.pkx", b"data.pkl"))
    with pytest.raises(UnsafeCheckpoint, match=r"model/data\.pkl twice"):
        read(path)


def test_compressed_entries_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(
        archive({"model/data.pkl": pickle.dumps({}, 2), "model/data/0": b"\0" * 10**8}, zipfile.ZIP_DEFLATED)
    )
    assert path.stat().st_size < 200_000
    with pytest.raises(CheckpointError, match="compressed"):
        read(path)


@pytest.mark.parametrize("key", ["../../etc/passwd", "/etc/passwd", "..", "a\\b"])
@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_storage_keys_that_are_paths_are_refused(key: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(contain(kind, tensor(storage(key)), {"0": bytes(16)}))
    with pytest.raises(UnsafeCheckpoint, match="is a path"):
        read(path)


@pytest.mark.parametrize(
    ("pickled", "words"),
    [
        (tensor(storage("7")), "storage '7' is missing"),
        (tensor(storage(numel=5)), "storage '0' has 16 of its 20 bytes"),
        (tensor(storage(numel=-1)), "torch does not write"),
        (tensor(storage(numel=2**60)), "storage '0' has 16 of its"),
        (tensor(storage(), shape=(10**9,), stride=(0,)), "storage '0' of 4 elements"),
        (tensor(storage(), shape=(2**31, 2**31), stride=(0, 0)), "impossible shape"),
        (tensor(storage(), shape=(2**62, 2**62), stride=(0, 0)), "impossible shape"),
        (tensor(storage(), shape=(0, 2**62, 2**62), stride=(1, 1, 1)), "impossible shape"),
        (tensor(storage(), shape=(0, 2**40), stride=(2**62, 2**62)), "impossible shape"),
        (tensor(storage(), offset=1), "storage '0' of 4 elements"),
        (tensor(storage(), offset=-1), "impossible shape"),
        (tensor(storage(), offset=2**62, shape=(1,)), "storage '0' of 4 elements"),
        (tensor(storage(), shape=(2,), stride=(4,)), "storage '0' of 4 elements"),
        (tensor(storage(), shape=(2,), stride=(-1,)), "impossible shape"),
        (tensor(storage(), shape=(-2,)), "impossible shape"),
        (tensor(storage(), shape=(2, 2)), "impossible shape"),
        (tensor(storage(), shape=(1,) * 65, stride=(1,) * 65), "impossible shape"),
        (tensor(storage(kind="QInt8Storage")), "QInt8Storage is not supported"),
        (tensor(storage(location="meta")), "meta device"),
        (b"(" + text("something") + b"tQ.", "torch does not write"),
        (text("0") + b"Q.", "torch does not write"),
        (named("torch._utils", "_rebuild_tensor_v2") + b"(" + text("x") + b"K\0)))}tR.", "arguments"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_impossible_tensors_are_told(pickled: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(contain("zip", pickled, {"0": bytes(16)}))
    with pytest.raises(CheckpointError) as error:
        read(path)
    assert words in str(error.value)


def test_the_tensor_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(contain("zip", tensor(storage(), offset=1), {"0": bytes(16)}))
    with pytest.raises(CheckpointError, match=r"near 'fc\.weight'"):
        read(path)


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning", "ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.eye(3).to_sparse(), "a sparse tensor"),
        (lambda: torch.eye(3).to_sparse_csr(), "a sparse tensor"),
        (lambda: torch.empty(2, device="meta"), "meta device"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "not supported"),
        (lambda: torch.tensor([1 + 2j]).conj(), "conjugate"),
    ],
    ids=["sparse", "csr", "meta", "quantized", "conj"],
)
def test_other_kinds_of_tensors_are_told(make: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(saved({"fc.weight": make()}))
    with pytest.raises(CheckpointError, match=words) as error:
        read(path)
    assert type(error.value) is CheckpointError


def test_big_endian_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(archive({"m/data.pkl": pickle.dumps({}, 2), "m/byteorder": b"big"}))
    with pytest.raises(CheckpointError, match="big-endian"):
        read(path)
    legacy = saved({}, legacy=True)
    path.write_bytes(legacy.replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89"))
    with pytest.raises(CheckpointError, match="big-endian"):
        read(path)


def test_other_archives_are_told(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    for entries, words in (
        ({"readme.txt": b"x"}, "no data.pkl"),
        ({}, "damaged or truncated"),
        ({"m/data.pkl": b"N.", "m/constants.pkl": b"N."}, "TorchScript"),
    ):
        path.write_bytes(archive(entries))
        with pytest.raises(CheckpointError, match=words):
            read(path)


def test_what_is_no_checkpoint_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with pytest.raises(CheckpointError, match="no such file"):
        read(path)
    with pytest.raises(CheckpointError, match="not a file"):
        read(tmp_path)
    with pytest.raises(CheckpointError, match=r"cannot be read|no such file"):
        read(tmp_path / "nul\0l")
    for data, words in (
        (b"", "empty"),
        (b"Hello, this is a text.\n" * 20, "known format"),
        (b"<html><body>404</body></html>", "known format"),
        (b"{}", "known format"),
        (b"PK", "damaged or truncated"),
        (bytes(257) + b"ustar" + bytes(300), "tar format"),
        (b"\x80\x02N.N.", "behind it"),
        (random.Random(0).randbytes(1000), "known format|damaged"),
    ):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=words):
            read(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="not a file"):
        read(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("pickled", "keys", "raw", "words"),
    [
        (tensor(legacy_storage()), [], RAW, "list of storages"),
        (tensor(legacy_storage()), ["0", "1"], RAW, "list of storages"),
        (tensor(legacy_storage()), [[[["0"]]]], RAW, "list of storages"),
        (tensor(legacy_storage()), ["0"], RAW[:-1], "storage '0' is cut off"),
        (tensor(legacy_storage()), ["0"], b"", "storage '0' is cut off"),
        (tensor(legacy_storage()), ["0"], struct.pack("<q", 3) + RAW[8:], "another length"),
        (tensor(legacy_storage(numel=2**40)), ["0"], RAW, "shorter than declared"),
        (tensor(legacy_storage(b"(" + text("v") + number(3) + number(2) + b"t")), ["0"], RAW, "does not lie within"),
        (tensor(legacy_storage(b"(" + text("v") + number(-1) + number(2) + b"t")), ["0"], RAW, "does not lie within"),
        (tensor(legacy_storage(b"K\x05")), ["0"], RAW, "does not lie within"),
        (tensor(legacy_storage(), offset=1), ["0"], RAW, "does not lie within"),
        (tensor(legacy_storage(), shape=(10**9,), stride=(0,)), ["0"], RAW, "does not lie within"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_legacy_files_are_told(
    pickled: bytes, keys: list[object], raw: bytes, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(legacy_file(pickled, keys, raw))
    with pytest.raises(CheckpointError) as error:
        read(path)
    assert words in str(error.value)


class Attention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 3
        self.inner = torch.nn.MultiheadAttention(6, 2)
        self.register_buffer("mask", torch.ones(2), persistent=False)


SAMPLES = [
    saved({"model": {"a": torch.arange(5.0)}, "args": collections.OrderedDict(lr=0.1)}),
    saved({"model": {"a": torch.arange(5.0)}, "epoch": 3}, legacy=True),
    saved(Attention()),
    safetensors.torch.save({"a": torch.arange(3.0), "b": torch.ones(2, 2, dtype=torch.int8)}),
]


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes_raise_nothing_but_our_own_errors(data: st.DataObject, tmp_path: Path) -> None:
    damaged = bytearray(data.draw(st.sampled_from(SAMPLES)))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "model.pt"
    path.write_bytes(damaged)
    with contextlib.suppress(WanderError):
        checkpoint = read(path)
        options(checkpoint)
        module_attributes(checkpoint)
        for weight in state_dict(checkpoint).values():
            weight.clone()
