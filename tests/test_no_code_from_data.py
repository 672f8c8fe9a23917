"""Nothing here runs what a file or a request holds: no line of the product calls what could."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_architecture import ROOT

PACKAGES = ("wander", "export", "serving", "demo", "benchmarks", "deploy")

MODULES = {
    "pickle", "_pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "code", "codeop",
    "xml.etree.ElementTree", "xml.dom.minidom", "xml.sax",
}  # fmt: skip
"""They run code that data bring, or (XML) take memory as data say. `pickletools` only reads opcodes."""
NAMES = {"eval", "exec", "compile", "__import__", "breakpoint"}
CALLS = {
    "os.system", "os.popen", "os.execve", "os.execvp", "commands.getoutput", "subprocess.getoutput",
    "subprocess.getstatusoutput", "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "torch.hub.load",
    "tempfile.mktemp", "numpy.fromregex", "pandas.read_pickle", "torch.jit.load", "torch.compiler.load",
}  # fmt: skip
SAFE_ONLY_WITH = {
    "numpy.load": ("allow_pickle", False),
    "numpy.savez": ("allow_pickle", False),
    "numpy.savez_compressed": ("allow_pickle", False),
    "numpy.save": ("allow_pickle", False),
    "torch.load": ("weights_only", True),
}
"""Function -> the argument that has to be there, in so many words."""
NEVER_WITH = {("shell", True), ("trust_remote_code", True), ("allow_pickle", True), ("weights_only", False)}
"""Arguments that no function is given, nor any that a reader cannot tell."""
ALIASES = {"np": "numpy"}


def files() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def dotted(node: ast.expr) -> str:
    """The name of what is called, as far as it is one."""
    if isinstance(node, ast.Name):
        return ALIASES.get(node.id, node.id)
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else "?"


def dangers(source: str) -> Iterator[str]:
    """What a source does that could run, or unpack without a bound, what data hold."""
    tree = ast.parse(source)
    imported = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"imports {alias.name}" for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            names = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            yield from (f"imports {name}" for name in names if name in MODULES)
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            name = imported.get(name, name)
            given = {word.arg: word.value for word in node.keywords}
            if name in NAMES or name in CALLS:
                yield f"calls {name}"
            if name in SAFE_ONLY_WITH:
                argument, value = SAFE_ONLY_WITH[name]
                found = given.get(argument)
                if not (isinstance(found, ast.Constant) and found.value is value):
                    yield f"calls {name} without {argument}={value}"
            for argument, value in NEVER_WITH:
                found = given.get(argument)
                if found is not None and not (isinstance(found, ast.Constant) and found.value is not value):
                    yield f"calls {name} with {argument}"


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_from_data(path: Path) -> None:
    assert list(dangers(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, marshal",
        "from pickle import loads",
        "from xml.etree import ElementTree",
        "import shelve as s",
        "eval('1')",
        "exec(x)",
        "__import__(x)",
        "os.system(x)",
        "from os import system\nsystem(x)",
        "subprocess.run(x, shell=True)",
        "subprocess.run(x, shell=flag)",
        "np.load(x)",
        "np.load(x, allow_pickle=True)",
        "np.load(x, allow_pickle=flag)",
        "numpy.load(x, mmap_mode='r')",
        "from numpy import load\nload(x)",
        "from numpy import load as read\nread(x)",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "yaml.load(x)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
    ],
)
def test_dangers_are_seen(source: str) -> None:
    assert list(dangers(source))


@pytest.mark.parametrize(
    "source",
    [
        "import pickletools",
        "model.eval()",
        "re.compile(x)",
        "np.load(x, allow_pickle=False)",
        "torch.load(x, weights_only=True)",
        "subprocess.run([x], shell=False)",
        "yaml.safe_load(x)",
        "ast.literal_eval(x)",
        "json.loads(x)",
    ],
)
def test_what_is_harmless_passes(source: str) -> None:
    assert not list(dangers(source))
