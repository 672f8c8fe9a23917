"""The laws of the house: which room may stand on which, and where torch may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("wander", "export", "serving", "demo")
GROUND = {
    "wander.__version__",
    "wander.errors",
    "wander.signature",
    "wander.manifest",
    "wander.files",
    "wander.bundle",
    "wander.npz",
    "wander.registry",
    "wander.console",
}

# Room -> what it may import of this project, beside itself.
ALLOWED = {
    "wander.tasks": GROUND | {"wander.extractors"},
    "wander.extractors": GROUND | {"wander.engines"},
    "wander.engines": GROUND,
    "wander.adapters": GROUND,
    "wander.backbones": GROUND | {"wander.adapters"},
    "wander.checkpoints": GROUND | {"wander.adapters", "wander.backbones"},
    "wander.training": GROUND
    | {
        "wander.adapters",
        "wander.backbones",
        "wander.checkpoints",
        "wander.tasks",
        "wander.engines",
        "wander.extractors",
    },
    "export": {"wander"},
    "serving": GROUND | {"wander.tasks", "wander.engines", "wander.extractors"},
    "demo": GROUND | {"wander.tasks", "serving.client"},
}
LAYERS = [
    "serving.auth",
    "serving.index",
    "serving.pacing",
    "serving.tickets",
    "serving.batching",
    "serving.statistics",
    "serving.model",
    "serving.answers",
    "serving.catalog",
    "serving.folders",
    "serving.repository",
    "serving.preprocessing",
    "serving.service",
    "serving.protocols",
    "serving.app",
]
TORCH_ROOMS = ("wander.adapters", "wander.backbones", "wander.checkpoints", "wander.training", "export")


def modules() -> Iterator[tuple[str, Path]]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name.removesuffix(".__init__"), path


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at the top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a name comes from"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module in ROOMS)


def inside(name: str, room: str) -> bool:
    return name == room or name.startswith(room + ".")


def room_of(name: str) -> str | None:
    return next((room for room in sorted(ALLOWED, key=len, reverse=True) if inside(name, room)), None)


@pytest.mark.parametrize(("name", "path"), [pytest.param(*m, id=m[0]) for m in modules()])
def test_no_import_runs_upward(name: str, path: Path) -> None:
    room = room_of(name)
    for imported in imports(path):
        if not any(inside(imported, top) for top in ROOMS):
            continue
        below = GROUND if room is None else ALLOWED[room] | {room}
        assert any(inside(imported, part) for part in below) or imported == "wander", (
            f"{name} may not import {imported}"
        )


@pytest.mark.parametrize(("name", "path"), [pytest.param(*m, id=m[0]) for m in modules() if m[0].startswith("serving")])
def test_serving_is_layered(name: str, path: Path) -> None:
    own = next((i for i, layer in enumerate(LAYERS) if inside(name, layer)), None)
    if own is None:
        return
    for imported in imports(path):
        above = [layer for layer in LAYERS[own + 1 :] if inside(imported, layer)]
        assert not above, f"{name} imports {imported}, which stands on it"


@pytest.mark.parametrize(("name", "path"), [pytest.param(*m, id=m[0]) for m in modules()])
def test_torch_is_only_where_it_may_be(name: str, path: Path) -> None:
    if any(inside(name, room) for room in TORCH_ROOMS):
        return
    for imported in imports(path):
        assert not inside(imported, "torch"), f"{name} imports torch"
        assert not inside(imported, "safetensors"), f"{name} imports safetensors"


@pytest.mark.parametrize(
    "statement",
    [
        "import serving.app, serving.cli, serving.protocols; list(serving.protocols.protocols)",
        "import wander.tasks; list(wander.tasks.tasks)",
        "import wander.extractors; list(wander.extractors.extractors)",
        "import wander.engines; [e.unavailable() for _, e in wander.engines.engines]",
        "import export.parity, export.cli, wander.checkpoints.cli, wander.training.cli",
        "from wander.__main__ import app, load; from importlib.metadata import entry_points; "
        "[load(e) for e in entry_points(group='wander.commands')]",
    ],
)
def test_what_serves_loads_no_torch(statement: str) -> None:
    """In a fresh process, with all that is pulled in."""
    check = (
        "import sys; heavy = {'torch', 'gradio', 'transformers', 'onnx'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", f"{statement}; {check}"], check=True, cwd=ROOT)


def test_a_file_can_be_read_in_one_sitting() -> None:
    long = {name: lines for name, path in modules() if (lines := len(path.read_text("utf-8").splitlines())) > 350}
    assert not long


def test_every_package_says_what_it_is() -> None:
    for name, path in modules():
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{name} has no docstring"
