"""The format of torch.save before 1.6: five pickles one after the other, then the bytes of all storages.

The pickles are a magic number, a version, the saving machine, the object itself, and the keys of the storages in the
order in which they follow; each storage is its number of elements (int64) and its bytes. How many bytes a storage has
stands only in the object's pickle, and the object's tensors need the bytes: that pickle is interpreted twice, first
over storages without data.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable

import torch

from wander.checkpoints.reading.mapped import bytes_at
from wander.checkpoints.reading.pickle_machine import load
from wander.checkpoints.reading.policy import shown
from wander.checkpoints.reading.stubs import GlobalRef
from wander.checkpoints.reading.tensors import Storage, StorageId
from wander.errors import CheckpointError

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001


def read(file: mmap.mmap) -> tuple[str, object]:
    """`("legacy", root)`, or `("pickle", root)` for a bare pickle without torch's magic number in front.

    Raises:
        CheckpointError: damaged, truncated, written on a big-endian machine, or no pickle at all.
        UnsafeCheckpoint: it asks for something that no checkpoint needs.
    """
    first = load(file)
    if type(first) is not int or first != _MAGIC:
        if file.tell() != file.size():
            raise CheckpointError("this is a pickle with something behind it, not a checkpoint")
        return "pickle", first
    if load(file) != _VERSION:
        raise CheckpointError("the legacy checkpoint has another version than torch ever wrote; the file is damaged")
    machine = load(file)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise CheckpointError("the checkpoint was saved on a big-endian machine; save it again on a little-endian one")
    start = file.tell()
    sizes: dict[str, StorageId] = {}
    load(file, _over(lambda found: _without_data(found, sizes, file.size())))
    storages = _storages(file, sizes, load(file))
    file.seek(start)
    return "legacy", load(file, _over(lambda found: storages[found.key]))


def _over(storage: Callable[[StorageId], Storage]) -> Callable[[object], object]:
    def persistent_load(persistent_id: object) -> object:
        match persistent_id:
            case ("module", GlobalRef() as kind, *_):  # with its source code, which does not matter here
                return kind
        found = StorageId.parse(persistent_id)
        return _viewed(storage(found), found)

    return persistent_load


def _without_data(found: StorageId, sizes: dict[str, StorageId], limit: int) -> Storage:
    known = sizes.setdefault(found.key, found)
    if found.nbytes > min(known.nbytes, limit):
        raise CheckpointError(f"storage {shown(found.key)!r} is shorter than declared; the file is incomplete")
    return Storage(known.key, known.dtype, torch.empty(known.nbytes, dtype=torch.uint8, device="meta"))


def _viewed(storage: Storage, found: StorageId) -> Storage:
    """The part of a storage that the id asks for, with the dtype that the id gives it."""
    match found.view:
        case None:
            return Storage(found.key, found.dtype, storage.data)
        case (str(), int(offset), int(numel)):
            size = found.dtype.itemsize
            if offset >= 0 and numel >= 0 and (offset + numel) * size <= storage.data.numel():
                return Storage(found.key, found.dtype, storage.data[offset * size : (offset + numel) * size])
    raise CheckpointError(f"a view of storage {shown(found.key)!r} does not lie within it; the file is damaged")


def _storages(file: mmap.mmap, sizes: dict[str, StorageId], keys: object) -> dict[str, Storage]:
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(sizes):
        raise CheckpointError("the list of storages does not fit the tensors; the file is damaged")
    storages: dict[str, Storage] = {}
    for key in keys:
        declared = sizes[key]
        header = file.read(8)
        offset = file.tell()
        if len(header) < 8 or offset + declared.nbytes > file.size():
            raise CheckpointError(
                f"storage {shown(key)!r} is cut off; the file is incomplete, download or save it again"
            )
        if struct.unpack("<q", header)[0] * declared.dtype.itemsize != declared.nbytes:
            raise CheckpointError(f"storage {shown(key)!r} has another length than declared; the file is damaged")
        storages[key] = Storage(declared.key, declared.dtype, bytes_at(file, offset, declared.nbytes))
        file.seek(offset + declared.nbytes)
    return storages
