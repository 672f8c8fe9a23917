"""Our own folders: how their weights come into memory, and what is said of files that are no good."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.export.conftest import write_checkpoint
from wander.checkpoints import folder
from wander.errors import CheckpointError


def test_tensors_are_read_when_asked_for_and_kept_by_nobody(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3), "b": torch.zeros(2, 2)}, tmp_path / "x.safetensors")
    tensors = folder.read_tensors(tmp_path / "x.safetensors")
    assert (sorted(tensors), len(tensors), "c" in tensors) == (["a", "b"], 2, False)
    first = tensors["a"]
    assert tensors["a"] is not first
    assert tensors["a"].data_ptr() != first.data_ptr()
    first += 1  # memory of its own: neither the file nor who asks next sees it
    assert torch.equal(tensors["a"], torch.ones(3))
    with pytest.raises(KeyError):
        tensors["c"]


def test_a_loaded_host_holds_its_weights_once_and_maps_no_file(tmp_path: Path) -> None:
    out = write_checkpoint(tmp_path / "converted")
    loaded = folder.load(out / "adapter", out / "backbone")
    gc.collect()
    assert str(out) not in Path("/proc/self/maps").read_text(encoding="utf-8")
    pointers = [value.data_ptr() for value in loaded.host.state_dict().values()]
    assert len(set(pointers)) == len(pointers)


def test_half_precision_becomes_the_precision_of_the_host(tmp_path: Path) -> None:
    out = write_checkpoint(tmp_path / "converted")
    host = folder.load(out / "adapter", out / "backbone").host
    adapted, frozen = ({n: v.half() for n, v in part.items()} for part in host.split_state())
    folder.load_strictly(host, adapted, frozen)
    assert {value.dtype for value in host.state_dict().values()} == {torch.float32}
    assert torch.equal(host.state_dict()[next(iter(frozen))], next(iter(frozen.values())).float())


@pytest.mark.parametrize(
    ("content", "message"), [(None, "does not exist"), (b"no", "is not a whole"), (b"\0" * 9, "is not a whole")]
)
def test_a_file_that_is_no_good_is_named(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"x.safetensors {message}"):
        folder.read_tensors(path)


def test_a_file_that_was_cut_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(300)}, path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="is not a whole"):
        folder.read_tensors(path)
