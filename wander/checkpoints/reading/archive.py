"""The containers of checkpoints: torch's zip archives, safetensors files, and the way to legacy files and bare pickles.

A file is mapped into memory copy-on-write, and tensors lie in the mapping: nothing is read before it is used, and
nothing that is done to a tensor reaches the file. Everything is loaded on the CPU, whatever device it was saved from.
Checksums are not verified, since torch itself can be told to write none.
"""

from __future__ import annotations

import mmap
import struct
import zipfile
from pathlib import Path
from typing import IO, cast

import safetensors
import safetensors.torch

from wander.checkpoints.reading import legacy
from wander.checkpoints.reading.mapped import bytes_at, map_file
from wander.checkpoints.reading.pickle_machine import MAX_BYTES, load
from wander.checkpoints.reading.policy import shown
from wander.checkpoints.reading.tensors import Storage, StorageId
from wander.errors import CheckpointError, UnsafeCheckpoint

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_NO_FORMAT = "this is no checkpoint in a known format (torch zip, torch legacy, safetensors, pickle)"

# What zipfile raises on damaged input, beside its own error.
_UNREADABLE = (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError, OSError, struct.error)


def open_file(path: Path) -> tuple[str, object]:
    """The format (`zip`, `legacy`, `safetensors` or `pickle`) and the tree of a checkpoint.

    Raises:
        CheckpointError: not there, not a checkpoint, damaged, truncated, or of a kind that is not supported.
        UnsafeCheckpoint: it asks for something that no checkpoint needs, or has entries outside of itself.
    """
    file = map_file(path)
    if file[:2] == b"PK":
        return "zip", _Archive(file).root()
    if path.suffix == ".safetensors" or _is_safetensors(file):
        return "safetensors", _read_safetensors(path)
    if file[257:262] == b"ustar":
        raise CheckpointError(
            "the tar format of torch before 0.1.10 is not supported; save it again with a newer torch"
        )
    try:
        return legacy.read(file)
    except UnsafeCheckpoint:
        raise
    except CheckpointError as error:
        if file[:1] == b"\x80":
            raise
        raise CheckpointError(_NO_FORMAT) from error


def _is_safetensors(file: mmap.mmap) -> bool:
    length = int.from_bytes(file[:8], "little")
    return 2 <= length <= file.size() - 8 and file[8:9] == b"{"


def _read_safetensors(path: Path) -> dict[str, object]:
    try:
        return dict(safetensors.torch.load_file(path))
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"the safetensors file is damaged or truncated ({shown(str(error))})") from error


class _Archive:
    """A zip file as torch.save writes it: `<folder>/data.pkl`, `<folder>/data/<key>`, nothing compressed."""

    def __init__(self, file: mmap.mmap) -> None:
        self.file = file
        self.storages: dict[str, Storage] = {}
        try:
            with zipfile.ZipFile(cast(IO[bytes], file)) as archive:
                entries = archive.infolist()
        except _UNREADABLE as error:
            raise CheckpointError(
                f"the zip archive is damaged or truncated ({shown(str(error))}); download or save it again"
            ) from error
        self.entries: dict[str, zipfile.ZipInfo] = {}
        for entry in entries:
            _check_entry(entry)
            if entry.filename in self.entries:
                raise UnsafeCheckpoint(f"the archive holds the entry {shown(entry.filename)} twice; it was refused")
            self.entries[entry.filename] = entry
        self.folder = entries[0].filename.split("/")[0] if entries else ""

    def root(self) -> object:
        """The tree of the archive's pickle."""
        if f"{self.folder}/data.pkl" not in self.entries:
            raise CheckpointError("the zip archive holds no data.pkl in its first folder; it is not from torch.save")
        if f"{self.folder}/constants.pkl" in self.entries:
            raise CheckpointError(
                "this is a TorchScript archive, which holds a program; save the module's state_dict instead"
            )
        if f"{self.folder}/byteorder" in self.entries and self._bytes("byteorder") != b"little":
            raise CheckpointError(
                "the checkpoint was saved on a big-endian machine; save it again on a little-endian one"
            )
        return load(self._bytes("data.pkl"), self._storage)

    def _storage(self, persistent_id: object) -> Storage:
        found = StorageId.parse(persistent_id)
        name = f"data/{found.key}"
        if f"{self.folder}/{name}" not in self.entries:
            raise CheckpointError(f"storage {shown(found.key)!r} is missing from the archive; the file is incomplete")
        if found.key not in self.storages:
            self.storages[found.key] = Storage(found.key, found.dtype, bytes_at(self.file, *self._extent(name)))
        data = self.storages[found.key].data
        if data.numel() < found.nbytes:
            raise CheckpointError(
                f"storage {shown(found.key)!r} has {data.numel()} of its {found.nbytes} bytes; the file is damaged"
            )
        return Storage(found.key, found.dtype, data[: found.nbytes])

    def _bytes(self, name: str) -> bytes:
        offset, size = self._extent(name)
        if size > MAX_BYTES:
            raise CheckpointError(f"the entry {name} has more than {MAX_BYTES} bytes; no model's does")
        return self.file[offset : offset + size]

    def _extent(self, name: str) -> tuple[int, int]:
        """Where in the file the data of an entry begins, and its number of bytes."""
        entry = self.entries[f"{self.folder}/{name}"]
        header = self.file[max(entry.header_offset, 0) : max(entry.header_offset, 0) + _LOCAL_HEADER.size]
        if len(header) == _LOCAL_HEADER.size:
            signature, name_length, extra_length = _LOCAL_HEADER.unpack(header)
            offset = entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length
            if signature == b"PK\3\4" and entry.header_offset >= 0 and offset + entry.file_size <= self.file.size():
                return offset, entry.file_size
        raise CheckpointError(f"the archive's entry {shown(name)} does not lie within it; the file is damaged")


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name = entry.orig_filename
    if name.startswith("/") or "\\" in name or name[1:2] == ":" or "\0" in name or ".." in name.split("/"):
        raise UnsafeCheckpoint(f"the archive's entry {shown(name)} leads out of the archive; it was refused")
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        raise CheckpointError(
            f"the archive's entry {shown(name)} is compressed, which torch never does; it was refused"
        )
    if entry.flag_bits & 1:
        raise CheckpointError(f"the archive's entry {shown(name)} is encrypted, which torch never does; it was refused")
