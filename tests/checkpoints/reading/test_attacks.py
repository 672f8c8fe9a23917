"""Hostile checkpoints: each is refused by name, quickly, and nothing of it has run."""

from __future__ import annotations

import collections
import functools
import importlib
import marshal
import operator
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.checkpoints.conftest import CONTAINERS, Calling, Watch, contain, named, text
from wander.checkpoints.reader import read
from wander.checkpoints.reading.pickle_machine import Stub, load
from wander.errors import CheckpointError, UnsafeCheckpoint


def touch(marker: Path) -> str:
    return f"touch '{marker}'"


def writing(marker: Path) -> str:
    return f"open({str(marker)!r}, 'w').close()"


ATTACKS: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "os.system by text": ("os.system", lambda m: b"cos\nsystem\n" + text(touch(m)) + b"\x85R."),
    "os.system": ("system", lambda m: pickle.dumps(Calling(os.system, touch(m)), 2)),
    "posix.system": ("posix.system", lambda m: b"cposix\nsystem\n" + text(touch(m)) + b"\x85R."),
    "nt.system": ("nt.system", lambda m: b"cnt\nsystem\n" + text(touch(m)) + b"\x85R."),
    "eval": ("builtins.eval", lambda m: pickle.dumps(Calling(eval, writing(m)), 2)),
    "exec": ("builtins.exec", lambda m: pickle.dumps(Calling(exec, writing(m)), 4)),
    "open": ("open", lambda m: pickle.dumps(Calling(open, str(m), "w"), 4)),
    "python 2 eval": ("builtins.eval", lambda m: b"c__builtin__\neval\n" + text(writing(m)) + b"\x85R."),
    "python 2 commands": ("commands.getoutput", lambda m: b"ccommands\ngetoutput\n" + text(touch(m)) + b"\x85R."),
    "getattr of an imported module": (
        "importlib.import_module",
        lambda m: pickle.dumps(Calling(getattr, Calling(importlib.import_module, "os"), "system"), 4),
    ),
    "getattr of a namespace": (
        "argparse.Namespace.__init__",
        lambda m: b"c__builtin__\ngetattr\n" + named("argparse", "Namespace") + text("__init__") + b"\x86R.",
    ),
    "getattr of what is no class": (
        "builtins.getattr",
        lambda m: b"c__builtin__\ngetattr\n" + text("text") + text("__class__") + b"\x86R.",
    ),
    "__import__": ("builtins.__import__", lambda m: pickle.dumps(Calling(__import__, "antigravity"), 2)),
    "Popen by NEWOBJ": (
        "subprocess.Popen",
        lambda m: b"\x80\x02csubprocess\nPopen\n](" + text("touch") + text(str(m)) + b"e\x85\x81.",
    ),
    "Popen by NEWOBJ_EX": (
        "subprocess.Popen",
        lambda m: b"\x80\x04" + named("subprocess", "Popen") + b"](" + text("touch") + b"e\x85}\x92.",
    ),
    "Popen by INST": ("subprocess.Popen", lambda m: b"(" + text(touch(m)) + b"isubprocess\nPopen\n."),
    "Popen by OBJ": ("subprocess.Popen", lambda m: b"(csubprocess\nPopen\n" + text(touch(m)) + b"o."),
    "methodcaller": ("operator.methodcaller", lambda m: pickle.dumps(operator.methodcaller("system", touch(m)), 2)),
    "attrgetter": ("operator.attrgetter", lambda m: pickle.dumps(operator.attrgetter("system"), 2)),
    "partial of os.system": ("system", lambda m: pickle.dumps(functools.partial(os.system, touch(m)), 2)),
    "partial of os.system, called": (
        "system",
        lambda m: b"cfunctools\npartial\ncos\nsystem\n\x85R" + text(touch(m)) + b"\x85R.",
    ),
    "partial, called": (
        "functools.partial",
        lambda m: b"cfunctools\npartial\n" + named("some.package", "run") + b"\x85R" + text(touch(m)) + b"\x85R.",
    ),
    "__setstate__ in the state": (
        "os.system",
        lambda m: named("some", "Thing") + b")\x81}" + text("__setstate__") + named("os", "system") + b"sb.",
    ),
    "__class__ in the state": (
        "os._wrap_close",
        lambda m: named("some", "Thing") + b")\x81}" + text("__class__") + named("os", "_wrap_close") + b"sb.",
    ),
    "reduce of reduce": (
        "builtins.eval",
        lambda m: pickle.dumps(Calling(collections.OrderedDict, [("a", Calling(eval, writing(m)))]), 2),
    ),
    "in a dict's key": ("builtins.eval", lambda m: b"}" + named("builtins", "eval") + b"Ns."),
    "marshal": ("marshal.loads", lambda m: pickle.dumps(Calling(marshal.loads, b""), 2)),
    "types.FunctionType": ("types.FunctionType", lambda m: b"ctypes\nFunctionType\n)R."),
    "code.interact": ("code.interact", lambda m: b"ccode\ninteract\n)R."),
    "codecs": ("codecs.encode", lambda m: b"ccodecs\nencode\n" + text("a") + text("rot13") + b"\x86R."),
    "an odd codec": ("_codecs.encode", lambda m: b"c_codecs\nencode\n" + text("a") + text("zlib") + b"\x86R."),
    "copyreg.add_extension": ("copyreg.add_extension", lambda m: b"ccopy_reg\nadd_extension\n)R."),
    "an extension code": ("extension 1", lambda m: b"\x82\x01."),
    "a nested name": ("torch.serialization.os.system", lambda m: named("torch.serialization", "os.system") + b")R."),
    "a nested name elsewhere": ("some.Thing.os.system", lambda m: named("some", "Thing.os.system") + b")R."),
    "special names": ("some.Thing.__globals__", lambda m: named("some", "Thing.__globals__") + b")R."),
    "no name": ("some. os", lambda m: named("some", " os") + b")R."),
    "logging.FileHandler": ("logging.FileHandler", lambda m: b"clogging\nFileHandler\n" + text(str(m)) + b"\x85R."),
    **{
        name: (name, lambda m, name=name: named(*name.rsplit(".", 1)) + text(writing(m)) + b"\x85R.")  # type: ignore[misc]
        for name in (
            "torch.load torch.hub.load torch.jit.load torch.serialization.load torch.storage._load_from_bytes "
            "torch.utils.cpp_extension.load_inline torch.fx.graph_module.reduce_graph_module torch.compile "
            "torch.ops.load_library torch.classes.load_library torch._utils._import_dotted_name torch.nn.init.os "
            "torch._C.import_ir_module torch.package.PackageImporter torch.multiprocessing.spawn.spawn "
            "torch.nn.functional.boolean_dispatch torch.distributed.run.main torch._dynamo.eval_frame.optimize "
            "numpy.load numpy.fromfile numpy.f2py.compile numpy.testing._private.utils.runstring numpy.save "
            "numpy.ctypeslib.load_library numpy.lib.npyio.load numpy.vectorize pip.main pip._internal.main "
            "setuptools.setup pkg_resources.run_script cloudpickle.loads dill.loads joblib.load IPython.embed "
            "webbrowser.open shutil.rmtree socket.socket ctypes.CDLL pdb.run timeit.timeit runpy.run_path bdb.Bdb.run "
            "pickle.loads _pickle.loads multiprocessing.Process asyncio.run threading.Thread tempfile.mktemp "
            "builtins.compile builtins.type builtins.setattr builtins.map builtins.print builtins.input "
            "distutils.file_util.write_file imp.load_source pathlib.os pathlib.Path.touch"
        ).split()
    },
}


@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_are_refused_by_name_and_nothing_runs(attack: str, kind: str, tmp_path: Path, watch: Watch) -> None:
    name, payload = ATTACKS[attack]
    marker, path = tmp_path / "ran", tmp_path / "model.pt"
    path.write_bytes(contain(kind, contain_benign(kind)))
    read(path)
    path.write_bytes(contain(kind, payload(marker)))
    modules = set(sys.modules)
    with watch as events, pytest.raises(UnsafeCheckpoint) as refusal:
        read(path)
    assert name in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert events == []
    assert set(sys.modules) == modules
    assert not marker.exists()


def contain_benign(kind: str) -> bytes:
    """Read once before a watched reading, so that what Python itself imports lazily is there."""
    return pickle.dumps({"kind": kind}, 2)


def test_the_message_says_what_is_asked_for() -> None:
    with pytest.raises(UnsafeCheckpoint) as refusal:
        load(b"cos\nsystem\nV true\n\x85R.")
    assert str(refusal.value) == (
        "the checkpoint asks for os.system, which no checkpoint needs; it was refused and nothing was run"
    )


def test_the_attacks_are_real(tmp_path: Path) -> None:
    """Python's own unpickler does run what the interpreter refuses."""
    marker = tmp_path / "ran"
    pickle.loads(ATTACKS["eval"][1](marker))  # noqa: S301
    assert marker.exists()


def test_a_module_that_could_be_imported_is_not(tmp_path: Path) -> None:
    """In a process of its own, where importing the class that the file names would leave a trace."""
    (tmp_path / "evil.py").write_text("open('imported', 'w').close()\nclass Model: pass\n")
    (tmp_path / "model.pt").write_bytes(named("evil", "Model") + b")\x81}" + text("width") + b"K\x03sb.")
    program = (
        "import sys; from pathlib import Path; from wander.checkpoints.reader import read; "
        "root = read(Path('model.pt')).root; assert root.attributes == {'width': 3}; assert 'evil' not in sys.modules; "
        "import evil"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    program, final = program.rsplit("; ", 1)
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    assert not (tmp_path / "imported").exists()
    subprocess.run([sys.executable, "-c", final], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "imported").exists()


DEPTH = 300_000

BOMBS: dict[str, bytes] = {
    "deep lists": b"]" * DEPTH + b"a" * (DEPTH - 1) + b".",
    "deep lists by mark": b"(" * DEPTH + b"l" * DEPTH + b".",
    "deep tuples": b")" + b"\x85" * DEPTH + b".",
    "deep dicts": b"}" + b"K\x01}" * DEPTH + b"s" * DEPTH + b".",
    "deep tuple as a key": b"})" + b"\x85" * DEPTH + b"Ns.",
    "deep tuple in a set": b"\x8f()" + b"\x85" * DEPTH + b"\x90.",
    "deep tuple in a frozenset": b"()" + b"\x85" * DEPTH + b"\x91.",
    "deep tuple given to set": b"c__builtin__\nset\n])" + b"\x85" * DEPTH + b"a\x85R.",
    "deep objects": b")" + b"\x85" * 300 + b"q\x00csome\nThing\nh\x00\x81.",
    "bytearray of a size": b"c__builtin__\nbytearray\n\x8a\x06" + (10**12).to_bytes(6, "little") + b"\x85R.",
    "bytes of a size": b"c__builtin__\nbytes\n\x8a\x06" + (10**12).to_bytes(6, "little") + b"\x85R.",
    "list of a range": (
        b"c__builtin__\nlist\nc__builtin__\nxrange\n\x8a\x06" + (10**12).to_bytes(6, "little") + b"\x85R\x85R."
    ),
    "an integer in digits": b"L" + b"9" * 1_000_000 + b"L\n.",
    "a long integer": b"\x8b" + struct.pack("<i", 1_000_000) + b"\x7f" * 1_000_000 + b".",
    "int of text": b"c__builtin__\nint\n" + text("9" * 4000) + b"\x85R.",
    "text longer than the file": b"\x8d" + struct.pack("<Q", 2**62) + b"a.",
    "bytes longer than the file": b"\x8e" + struct.pack("<Q", 2**40) + b"a.",
    "the same list copied again and again": (
        b"c__builtin__\nlist\nq\x00](" + b"N" * 100_000 + b"eq\x01" + b"h\x00h\x01\x85R" * 100_000 + b"."
    ),
    "the same bytes again and again": (
        b"c_codecs\nencode\nq\x00"
        + text("a" * 1_000_000)
        + text("latin1")
        + b"\x86q\x01"
        + b"h\x00h\x01R" * 10_000
        + b"."
    ),
    "too many opcodes": b"N0" * 3_000_000 + b"N.",
    "integers of one hash": (
        b"}("
        + b"".join(b"\x8a\x0e" + ((2**61 - 1) * (2**44 + i)).to_bytes(14, "little") + b"N" for i in range(100_000))
        + b"u."
    ),
    "an array larger than its bytes": pickle.dumps(np.zeros(4), 2).replace(b"K\x04\x85", b"J\xff\xff\xff\x7f\x85"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_quickly(bomb: str) -> None:
    start = time.monotonic()
    with pytest.raises(CheckpointError) as refusal:
        load(BOMBS[bomb])
    assert time.monotonic() - start < 30
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 400


def laughs(depth: int) -> bytes:
    """A list of two references to a list of two references to ..., 2**depth leaves in all."""
    levels = b"".join(b"](" + b"h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(depth))
    return b"]q\x00" + levels + b"."


def test_shared_parts_cost_nothing() -> None:
    root = load(laughs(100))
    assert isinstance(root, list)
    assert root[0] is root[1]


def test_cycles_are_kept() -> None:
    ring: list[object] = []
    ring.append(ring)
    root = load(pickle.dumps(ring, 2))
    assert isinstance(root, list)
    assert root[0] is root


def test_allowed_names_are_not_called(watch: Watch, tmp_path: Path) -> None:
    """Names that pass (a logger, a path, a class of torch) build stubs and nothing more."""
    values = [
        pathlib.PosixPath(tmp_path),
        torch.nn.ReLU(),
        torch.optim.SGD,
        torch.nn.ReLU,
        Calling(torch.nn.Linear, 1, 1),
    ]
    pickled = pickle.dumps(values, 2)
    load(pickled)
    with watch as events:
        root = load(pickled)
        logger = load(b"clogging\ngetLogger\n" + text("unheard of") + b"\x85R.")
    assert events == []
    assert isinstance(root, list)
    assert [type(value).__name__ for value in root] == ["Stub", "Stub", "GlobalRef", "GlobalRef", "Stub"]
    assert isinstance(logger, Stub)
