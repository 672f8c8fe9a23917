"""A bundle as an entry of NVIDIA Triton's model repository: `config.pbtxt`, and one model a graph. Knows no torch.

    <name>/config.pbtxt                         beside the versions of a bundle, an entry unless it has towers
    <folder>/<name>-<tower>/config.pbtxt        every graph of a bundle, laid out for Triton alone
    <folder>/<name>-<tower>/<version>/model.onnx

Triton then sees tensors; what a task does before and after them stays with its client.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from wander.bundle import MANIFEST, Bundle
from wander.errors import BundleError, UsageError
from wander.files import flush, replace_text, sha256, staging, sync
from wander.signature import DType, TensorSpec

CONFIG = "config.pbtxt"
MODEL_FILE = "model.onnx"
"""The file that Triton looks for unless the configuration names another."""

DATA_TYPES: dict[DType, str] = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
    "float64": "TYPE_FP64",
    "int64": "TYPE_INT64",
    "int32": "TYPE_INT32",
    "int8": "TYPE_INT8",
    "uint8": "TYPE_UINT8",
    "bool": "TYPE_BOOL",
}


def configure(model: Path) -> None:
    """Writes `config.pbtxt` for the latest version in a model's folder, or removes it if that is made of towers.

    It is written after the version appeared, so that it never speaks of one that is not there; and again if another
    export published a later one meanwhile.
    """
    written = None
    while (latest := Bundle.open(model)).version != written:
        if (main := latest.manifest.main) is not None:
            file = latest.manifest.graphs[main].file
            replace_text(model / CONFIG, config(latest, main, latest.name, file))
        else:
            (model / CONFIG).unlink(missing_ok=True)
        written = latest.version


def lay_out(bundle: Bundle, folder: Path, *, copy: bool = False) -> list[Path]:
    """Makes every graph of a bundle a model of the Triton repository `folder`; returns their folders.

    The files are hard links to the bundle's, or copies if `copy` is set. All graphs get their version, or none.

    Raises BundleError for an altered bundle or a graph whose name leaves the folder, UsageError for a version that is
    already there (or an older one than that), and for a file that cannot be linked.
    """
    bundle.verify()
    version = _version(bundle)
    names = _names(bundle)
    for name in names:
        _refuse_older(folder / name, version)
    with ExitStack() as stack:
        drafts = {name: stack.enter_context(_drafting(folder / name / str(version))) for name in names}
        for name, draft in drafts.items():
            graph = names[name]
            for source in bundle.graph_files(graph):
                # Data keep their name: the graph refers to them by it.
                target = draft / (MODEL_FILE if source == bundle.graph_path(graph) else source.name)
                _place(source, target, copy)
            flush(draft)
        for name, draft in drafts.items():
            draft.rename(folder / name / str(version))
    for name, graph in names.items():
        replace_text(folder / name / CONFIG, config(bundle, graph, name, MODEL_FILE))
    sync(folder)
    return [folder / name for name in names]


def config(bundle: Bundle, graph: str, name: str, file: str) -> str:
    """The text of `config.pbtxt` for one graph, which Triton knows as `name` and finds as `file` in a version's folder.

    The latest version alone is served, since this text describes no other. It runs on the CPU, where the parity gate
    ran: a GPU rounds otherwise, and nobody has checked that.
    """
    manifest = bundle.manifest
    described = manifest.graphs[graph]
    parameters = {
        "adapter": manifest.adapter_name,
        "task": manifest.task,
        "manifest_sha256": sha256(bundle.path / MANIFEST),
    }
    lines = [
        f"# Written by wander for version {bundle.version}; the next export writes it anew.",
        f"name: {_quote(name)}",
        'backend: "onnxruntime"',
        *([f"default_model_filename: {_quote(file)}"] if file != MODEL_FILE else []),
        f"max_batch_size: {described.max_batch_size}",
        *(line for spec in described.signature.inputs for line in _tensor("input", spec)),
        *(line for spec in described.signature.outputs for line in _tensor("output", spec)),
        "dynamic_batching {}",
        "version_policy { latest { num_versions: 1 } }",
        "instance_group { count: 1 kind: KIND_CPU }",
        *(
            f"parameters {{ key: {_quote(key)} value {{ string_value: {_quote(value)} }} }}"
            for key, value in parameters.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def _tensor(field: str, spec: TensorSpec) -> Iterator[str]:
    """Dimensions are those of an item, -1 if free. Triton wants one at least, which `reshape` drops again."""
    dims = ", ".join(str(size if isinstance(size, int) else -1) for size in spec.item_dims)
    yield f"{field} {{"
    yield f"  name: {_quote(spec.name)}"
    yield f"  data_type: {DATA_TYPES[spec.dtype]}"
    yield f"  dims: [ {dims or 1} ]"
    if not dims:
        yield "  reshape { shape: [] }"
    yield "}"


def _quote(text: str) -> str:
    """A string of protobuf's text format: what is not printable stands there as the octal codes of its UTF-8."""
    escaped = {'"': '\\"', "\\": "\\\\"}
    return f'"{"".join(escaped.get(sign) or (sign if sign.isprintable() else _octal(sign)) for sign in text)}"'


def _octal(sign: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in sign.encode())


def _names(bundle: Bundle) -> dict[str, str]:
    """Name of the entry -> graph; the names are those of the KServe routes."""
    names = bundle.graph_names()
    for name, graph in names.items():
        if Path(name).name != name or not name.isprintable():
            raise BundleError(f"{bundle.path}: the graph {graph!r} makes {name!r}, which cannot be a folder's name")
    return names


def _version(bundle: Bundle) -> int:
    if not (bundle.version.isascii() and bundle.version.isdecimal() and not bundle.version.startswith("0")):
        raise UsageError(f"{bundle.path} is no version folder: Triton wants a number that does not start with 0")
    return int(bundle.version)


def _refuse_older(entry: Path, version: int) -> None:
    """Triton would serve the newest version there is with the configuration of this one."""
    found = [int(path.name) for path in entry.glob("*") if path.name.isascii() and path.name.isdecimal()]
    if found and max(found) >= version:
        raise UsageError(f"{entry} has version {max(found)} already; remove it to lay out version {version}")


@contextmanager
def _drafting(version: Path) -> Iterator[Path]:
    """A temporary folder beside a version's place, where Triton overlooks it. No empty entry is left behind."""
    try:
        with staging(version) as draft:
            yield draft
    finally:
        with suppress(OSError):  # there is something in it
            version.parent.rmdir()


def _place(source: Path, target: Path, copy: bool) -> None:
    if copy:
        shutil.copyfile(source, target)
        return
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        raise UsageError(
            f"{source} cannot be linked into {target.parent.parent} ({error.strerror}); choose a folder on the file "
            "system of the bundle, or have the files copied: wander triton BUNDLE FOLDER --copy"
        ) from error
