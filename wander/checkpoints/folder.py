"""Our own checkpoint: a folder for the adapter, after the convention of the PEFT library, and one for the backbone.

    adapter/    adapter_config.json  adapter_model.safetensors     adapter and head; small, trained
    backbone/   config.json  model.safetensors                     frozen, shared by many adapters

Loading is strict: every missing, unexpected or mis-shaped tensor is named, and the backbone must be the one that the
adapter was trained on, by the sha256 of its weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import safetensors
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import save_file
from torch import Tensor

from wander.adapters import AdapterConfig, adapters
from wander.backbones import Host, hosts
from wander.errors import CheckpointError, UsageError
from wander.files import new_folder, sha256
from wander.manifest import BackboneRef, first_problem

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BACKBONE_CONFIG, BACKBONE_WEIGHTS = "config.json", "model.safetensors"


class Description(BaseModel):
    """What an adapter is for, apart from its weights.

    Attributes:
        task: name of a file in `wander.tasks`.
        labels: class names in the order of the outputs.
        preprocessing: what the task does to raw inputs; its keys are the task's.
        provenance: where the weights come from (data, command, seed, metrics, licence), for people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    labels: tuple[str, ...] = ()
    preprocessing: dict[str, Any] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)


class AdapterFile(Description):
    """`adapter_config.json`.

    Attributes:
        adapter: kind and sizes, or null for a host whose head alone was trained.
        assets: names of the files beside it that the preprocessing needs (a tokenizer, say).
    """

    schema_version: Literal[1] = 1
    adapter: dict[str, Any] | None
    head: dict[str, Any] = Field(default_factory=dict)
    backbone: BackboneRef
    assets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Loaded:
    """A host with its weights, in eval mode, what was written about it, and the files that its preprocessing needs."""

    host: Host
    about: AdapterFile
    assets: Mapping[str, bytes] = field(default_factory=dict)


def save(
    host: Host,
    head: Mapping[str, Any],
    about: Description,
    out: Path,
    backbone_id: str,
    assets: Mapping[str, bytes] | None = None,
) -> None:
    """Writes `out/adapter` and `out/backbone`, both or none. Raises UsageError if `out` exists."""
    adapted, frozen = host.split_state()
    assets = assets or {}
    with new_folder(out) as folder:
        backbone = folder / "backbone"
        backbone.mkdir()
        write_json(backbone / BACKBONE_CONFIG, host.config.model_dump(mode="json"))
        write_tensors(backbone / BACKBONE_WEIGHTS, frozen)
        reference = BackboneRef(kind=host.config.kind, id=backbone_id, sha256=sha256(backbone / BACKBONE_WEIGHTS))
        module = host.adapter_module
        adapter = folder / "adapter"
        adapter.mkdir()
        file = AdapterFile(
            **dict(about),
            adapter=module.config.model_dump(mode="json") if module is not None else None,
            head=dict(head),
            backbone=reference,
            assets=tuple(sorted(assets)),
        )
        for name, content in assets.items():
            (adapter / name).write_bytes(content)
        write_json(adapter / ADAPTER_CONFIG, file.model_dump(mode="json"))
        write_tensors(adapter / ADAPTER_WEIGHTS, adapted)


def load(adapter: Path, backbone: Path) -> Loaded:
    """Raises CheckpointError that names every tensor that is missing, unexpected or mis-shaped."""
    about = parse(AdapterFile, adapter / ADAPTER_CONFIG)
    weights = backbone / BACKBONE_WEIGHTS
    sizes = read_json(backbone / BACKBONE_CONFIG)
    if sizes.get("kind") != about.backbone.kind:
        raise CheckpointError(
            f"{adapter} needs a backbone of kind {about.backbone.kind!r}, {backbone} is {sizes.get('kind')!r}"
        )
    if not weights.is_file():
        raise CheckpointError(f"{weights} does not exist")
    if (found := sha256(weights)) != about.backbone.sha256:
        raise CheckpointError(
            f"{adapter} was trained on the backbone {about.backbone.id} with sha256 {about.backbone.sha256[:12]}…, "
            f"but {weights} has {found[:12]}…"
        )
    host = build(about, sizes, adapter)
    load_strictly(host, read_tensors(adapter / ADAPTER_WEIGHTS), read_tensors(weights))
    return Loaded(host.eval(), about, {name: _asset(adapter, name) for name in about.assets})


def _asset(adapter: Path, name: str) -> bytes:
    if Path(name).name != name or name.startswith("."):
        raise CheckpointError(f"{adapter / ADAPTER_CONFIG}: assets: {name!r} is not the name of a file beside it")
    try:
        return (adapter / name).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{adapter / name} cannot be read: {error}") from error


def build(about: AdapterFile, sizes: Mapping[str, Any], where: Path) -> Host:
    """A host of the described sizes, without its weights. Raises CheckpointError, naming the field that cannot be."""
    kind = hosts.get(about.backbone.kind)
    try:
        head = kind.Head.model_validate(about.head)
        adapter = adapter_config(about.adapter)
        return kind.build(kind.Config.model_validate(sizes), adapter, head)
    except ValidationError as error:
        raise CheckpointError(f"{where}: {first_problem(error)}") from error


def adapter_config(sizes: Mapping[str, Any] | None) -> AdapterConfig | None:
    """The typed configuration of an adapter, by its `kind`."""
    return None if sizes is None else adapters.get(str(sizes.get("kind"))).Config.model_validate(sizes)


@torch.no_grad()
def load_strictly(host: Host, adapted: Mapping[str, Tensor], frozen: Mapping[str, Tensor]) -> None:
    """Fills the host, a tensor after another, so that a large model need not be there twice.

    Raises CheckpointError that names all tensors that do not fit; the host is then half filled.
    """
    wanted = host.state_dict()
    given = {**dict.fromkeys(frozen, frozen), **dict.fromkeys(adapted, adapted)}
    misplaced = [n for n in adapted if not host.is_adapted(n)] + [n for n in frozen if host.is_adapted(n)]
    problems = [f"{name} is missing" for name in wanted if name not in given]
    problems += [f"{name} is not expected" for name in given if name not in wanted]
    problems += [f"{name} is in the wrong file" for name in misplaced if name in wanted]
    for name, tensor in wanted.items():
        if name not in given:
            continue
        if (value := given[name][name]).shape == tensor.shape:
            tensor.copy_(value)
        else:
            problems.append(f"{name} has shape {list(value.shape)}, not {list(tensor.shape)}")
    if problems:
        raise CheckpointError(f"{len(problems)} tensors do not fit: {'; '.join(problems)}")


def locate(source: Path) -> tuple[Path, Path | None]:
    """(adapter folder, backbone folder or None) of a converted folder, or of an adapter folder that stands alone."""
    if (source / ADAPTER_CONFIG).is_file():
        beside = source.parent / "backbone"
        return source, beside if (beside / BACKBONE_CONFIG).is_file() else None
    if (source / "adapter" / ADAPTER_CONFIG).is_file():
        backbone = source / "backbone"
        return source / "adapter", backbone if backbone.is_dir() else None
    raise UsageError(f"{source} holds no adapter: neither {ADAPTER_CONFIG} nor adapter/{ADAPTER_CONFIG} is in it")


def parse(model: type[AdapterFile], path: Path) -> AdapterFile:
    """Raises CheckpointError, naming the field."""
    try:
        return model.model_validate(read_json(path))
    except ValidationError as error:
        raise CheckpointError(f"{path}: {first_problem(error)}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Raises CheckpointError for a file that is absent or no JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object")
    return value


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_tensors(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file, each read when it is asked for and kept by nobody but who asked.

    Raises CheckpointError for a file that is absent or damaged.
    """
    try:
        return _Tensors(safetensors.safe_open(path, framework="pt", backend="pread"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist") from error
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error


class _Tensors(Mapping[str, Tensor]):
    def __init__(self, file: Any) -> None:
        self._file = file
        self._names = dict.fromkeys(file.keys())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({name: value.detach().contiguous() for name, value in tensors.items()}, path)
    path.chmod(0o644)  # the library writes files that only their owner can read
