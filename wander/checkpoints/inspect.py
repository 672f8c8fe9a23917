"""What is in a checkpoint, an adapter, a backbone or a bundle: for a person, and without running any of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from wander.adapters.wander import Wander, WanderConfig
from wander.backbones import Host
from wander.bundle import MANIFEST, Bundle, versions
from wander.checkpoints import folder, reader
from wander.checkpoints.convert import interpret
from wander.errors import CheckpointError, UsageError


def inspect(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Kind, sizes, parameter counts, what folding saves, and warnings; plain JSON values.

    Raises UsageError for a path that is none of these, CheckpointError or BundleError for one that is damaged.
    """
    if path.is_file():
        return _checkpoint(path, given)
    if (path / MANIFEST).is_file() or versions(path):
        return _bundle(Bundle.open(path))
    if (path / folder.BACKBONE_CONFIG).is_file():
        return _backbone(path)
    if path.is_dir():
        adapter, backbone = folder.locate(path)
        return _adapter(adapter, backbone)
    raise UsageError(f"{path} does not exist")


def _checkpoint(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """A file: its format and tensors in any case, and the model in it if that is of a format known here."""
    checkpoint = reader.read(path)
    tensors = reader.state_dict(checkpoint)
    found: dict[str, Any] = {
        "kind": "checkpoint",
        "format": checkpoint.format,
        **_tensors(tensors.values()),
        "options": {k: v for k, v in reader.options(checkpoint).items() if isinstance(v, str | int | float | bool)},
    }
    try:
        converted = interpret(path, given)
    except CheckpointError as error:
        return {**found, "model": None, "warnings": [str(error)]}
    return {
        **found,
        "model": _host(converted.host),
        "task": converted.about.task,
        "warnings": _warnings(converted.host),
    }


def _adapter(adapter: Path, backbone: Path | None) -> dict[str, Any]:
    about = folder.parse(folder.AdapterFile, adapter / folder.ADAPTER_CONFIG)
    found = {
        "kind": "adapter",
        "task": about.task,
        "labels": list(about.labels),
        "backbone": about.backbone.model_dump(),
        "provenance": about.provenance,
    }
    if backbone is None:
        tensors = folder.read_tensors(adapter / folder.ADAPTER_WEIGHTS)
        missing = "the backbone is not here, so the model could not be put together"
        return {**found, **_tensors(tensors.values()), "adapter": about.adapter, "warnings": [missing]}
    host = folder.load(adapter, backbone).host
    return {**found, "model": _host(host), "warnings": _warnings(host)}


def _backbone(path: Path) -> dict[str, Any]:
    tensors = folder.read_tensors(path / folder.BACKBONE_WEIGHTS)
    return {
        "kind": "backbone",
        "config": folder.read_json(path / folder.BACKBONE_CONFIG),
        **_tensors(tensors.values()),
        "warnings": [],
    }


def _bundle(bundle: Bundle) -> dict[str, Any]:
    manifest, checks = bundle.manifest, bundle.parity["checks"]
    bundle.verify()
    return {
        "kind": "bundle",
        "name": bundle.name,
        "version": bundle.version,
        "task": manifest.task,
        "labels": list(manifest.labels),
        "precision": manifest.precision,
        "adapter": manifest.adapter,
        "backbone": manifest.backbone.model_dump(),
        "folds": list(manifest.folds),
        "graphs": {
            name: {
                "bytes": bundle.graph_path(name).stat().st_size,
                "max_batch_size": graph.max_batch_size,
                **graph.signature.model_dump(mode="json"),
            }
            for name, graph in manifest.graphs.items()
        },
        "parity": {"passed": bundle.parity["passed"], "max_rel": max(check["max_rel"] for check in checks)},
        "producer": manifest.producer,
        "provenance": manifest.provenance,
        "warnings": [],
    }


def _host(host: Host) -> dict[str, Any]:
    """Sizes and counts of a model in memory."""
    adapted, frozen = host.split_state()
    module = host.adapter_module
    found: dict[str, Any] = {
        "backbone": host.config.model_dump(mode="json"),
        "adapter": module.config.model_dump(mode="json") if module is not None else None,
        "backbone_parameters": _count(frozen.values()),
        "trained_parameters": _count(adapted.values()),
    }
    if module is not None:
        found["adapter_parameters"] = module.parameter_count(module.config)
        found["adapter_flops"] = module.flops(module.config)
    if isinstance(module, Wander):
        found["folded"] = _savings(module.config, 1 if host.config.kind != "precomputed" else None)
    return found


def _savings(config: WanderConfig, tokens: int | None) -> dict[str, Any]:
    """What folding leaves of an adapter whose head reads `tokens` tokens (all if None)."""
    before = Wander.parameter_count(config)
    after = Wander.folded_parameter_count(config, tokens)
    flops = Wander.flops(config.model_copy(update={"tokens": tokens or config.tokens}))
    return {"parameters": after, "share": after / before, "flops": flops, "flops_share": flops / Wander.flops(config)}


def _warnings(host: Host) -> list[str]:
    module = host.adapter_module
    return module.warnings() if module is not None else []


def _tensors(tensors: Iterable[Tensor]) -> dict[str, Any]:
    tensors = list(tensors)
    return {
        "tensors": len(tensors),
        "parameters": _count(tensors),
        "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors}),
    }


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)
