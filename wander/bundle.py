"""The bundle: one version of a deployable model, a folder that is complete in itself.

    <name>/<version>/  manifest.json  model.onnx  parity.json  samples/*.npz  ...

A bundle appears at once and whole, and every file of it is named in the manifest with its sha256. Knows no engine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wander.errors import BundleError, InputError, UsageError
from wander.files import flush, relative_files, sha256, staging, sync
from wander.manifest import Manifest
from wander.npz import read_npz_file

MANIFEST = "manifest.json"
PARITY = "parity.json"
EXAMPLE = "example.json"
"""A small item of the task, made from the first sample: what a client can send as it is."""
DATA_SUFFIX = ".data"
"""Weights that are too large for a graph's file stand beside it, under its name with this."""
EXPECTED = "expected."
"""Prefix of the reference outputs in a samples file; the inputs stand there under their own names."""


@dataclass(frozen=True)
class Samples:
    """Inputs of one graph (rows, ..) and what the reference model answers to them."""

    inputs: dict[str, NDArray[Any]]
    expected: dict[str, NDArray[Any]]

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))

    def row(self, index: int) -> dict[str, NDArray[Any]]:
        """The inputs of one row, without the batch dimension."""
        return {name: value[index] for name, value in self.inputs.items()}


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder and its manifest. Nothing of the graphs is loaded."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path) -> Self:
        """The bundle in a version folder, or the latest version in a model's folder.

        Raises BundleError if there is none, or if its manifest cannot be read.
        """
        folder = path
        if not (path / MANIFEST).is_file():
            if not (found := versions(path)):
                raise BundleError(f"{path} is no bundle: there is no {MANIFEST} in it, nor in a version folder below")
            folder = path / str(found[-1])
        return cls(folder, Manifest.from_json((folder / MANIFEST).read_text(encoding="utf-8")))

    @property
    def name(self) -> str:
        """The model's name: that of the folder that holds its versions."""
        return self.path.resolve().parent.name

    @property
    def version(self) -> str:
        return self.path.resolve().name

    def graph_names(self) -> dict[str, str]:
        """The name under which each graph is a model of its own -> the graph.

        `<name>` for the one that is the model; `<name>-<graph>` for towers, and for the one that explains.
        """
        main = self.manifest.main
        return {self.name if graph == main else f"{self.name}-{graph}": graph for graph in self.manifest.graphs}

    def graph_path(self, graph: str) -> Path:
        return self.path / self.manifest.graphs[graph].file

    def graph_files(self, graph: str) -> list[Path]:
        """The graph's file, and the one with its weights if they stand apart."""
        file = self.manifest.graphs[graph].file
        return [self.path / name for name in (file, file + DATA_SUFFIX) if name in self.manifest.files]

    def samples(self, graph: str) -> Samples:
        """Raises BundleError if they are missing, damaged, or do not fit the graph's signature."""
        path = self.path / "samples" / f"{graph}.npz"
        signature = self.manifest.graphs[graph].signature
        try:
            arrays = read_npz_file(path)
            inputs = {spec.name: arrays[spec.name] for spec in signature.inputs}
            expected = {spec.name: arrays[EXPECTED + spec.name] for spec in signature.outputs}
        except (InputError, KeyError) as error:
            raise BundleError(f"{path} does not hold the samples of graph {graph}: {error}") from error
        return Samples(inputs, expected)

    @cached_property
    def parity(self) -> dict[str, Any]:
        """The parity report of the export. Raises BundleError if it is missing or damaged."""
        try:
            report: dict[str, Any] = json.loads((self.path / PARITY).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BundleError(f"{self.path / PARITY} cannot be read: {error}") from error
        return report

    def verify(self) -> None:
        """Compares every file with its sha256. Raises BundleError that names all that is missing, altered or extra."""
        wanted = self.manifest.files
        found = {name for name in relative_files(self.path) if name != MANIFEST}
        problems = [f"{name} is missing" for name in wanted if name not in found]
        problems += [f"{name} is not in the manifest" for name in sorted(found - set(wanted))]
        problems += [
            f"{name} was altered" for name in sorted(found & set(wanted)) if sha256(self.path / name) != wanted[name]
        ]
        for graph in self.manifest.graphs.values():
            if graph.file not in wanted:
                problems.append(f"the graph {graph.file} has no sha256")
        if problems:
            raise BundleError(f"{self.path}: {'; '.join(problems)}")


def versions(model: Path) -> list[int]:
    """Versions in a model's folder, ascending. Temporary and rejected folders are none."""
    if not model.is_dir():
        return []
    numbered = [p.name for p in model.iterdir() if p.name.isascii() and p.name.isdecimal() and (p / MANIFEST).is_file()]
    return sorted(int(name) for name in numbered if name == str(int(name)))


def write_samples(path: Path, samples: Samples) -> None:
    """Writes one `samples/<graph>.npz`; equal samples give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    expected = {EXPECTED + name: value for name, value in samples.expected.items()}
    np.savez_compressed(path, allow_pickle=False, **samples.inputs, **expected)


class Draft:
    """A bundle that is being written, in a temporary folder beside its place."""

    def __init__(self, model: Path, path: Path) -> None:
        self.model = model
        self.path = path

    def publish(self, manifest: Manifest) -> Bundle:
        """Writes the manifest with every file's sha256 and makes the folder the next version of the model."""
        files = {name: sha256(self.path / name) for name in relative_files(self.path)}
        sealed = manifest.model_copy(update={"files": files})
        (self.path / MANIFEST).write_text(sealed.to_json(), encoding="utf-8")
        flush(self.path)
        self.model.mkdir(parents=True, exist_ok=True)
        version = max(versions(self.model), default=0) + 1
        while True:
            target = self.model / str(version)
            try:
                os.rename(self.path, target)  # fails on a version that another export took meanwhile
            except OSError:
                if not target.exists():
                    raise
                version += 1
            else:
                sync(self.model)
                return Bundle(target, sealed)

    def reject(self) -> Path:
        """Keeps what there is as `<name>.rejected`, in place of an earlier one; it is not a bundle."""
        target = self.model.with_name(self.model.name + ".rejected")
        with staging(target) as old:
            if target.exists():
                os.rename(target, old / "old")
            os.rename(self.path, target)
        return target


@contextmanager
def drafting(model: Path) -> Iterator[Draft]:
    """A draft of the next version of the model in folder `model`. What is neither published nor rejected is removed."""
    if model.name.isdecimal() or model.name.endswith(".rejected") or model.name.startswith("."):
        raise UsageError(f"{model} cannot be the folder of a model: numbers are versions; name it after the model")
    if (model / MANIFEST).exists():
        raise UsageError(f"{model} is one version of a bundle; name the folder above it")
    with staging(model) as folder:
        yield Draft(model, folder)
