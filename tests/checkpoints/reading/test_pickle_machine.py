"""The interpreter of pickles: what it builds, and what it says of damage."""

from __future__ import annotations

import argparse
import collections
import contextlib
import copyreg
import datetime
import decimal
import enum
import functools
import pathlib
import pickle
import types
import uuid
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoints.conftest import Calling, named, same, text
from wander.checkpoints.reading.pickle_machine import GlobalRef, Stub, load, namespace
from wander.errors import CheckpointError, WanderError


class Colour(enum.Enum):
    RED = "red"


class Slotted:
    __slots__ = ("width",)

    def __init__(self) -> None:
        self.width = 3


class Options(dict[str, object]):
    def __init__(self, **fields: object) -> None:
        super().__init__(fields)
        self.origin = "here"


class Outer:
    class Inner:
        def __init__(self) -> None:
            self.depth = 2


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b".",
        b"N",
        b"0.",
        b"h\x00.",
        b"e.",
        b"(.",
        b"Na.",
        b"NNNs.",
        b"](Ns.",
        b"}(Nu.",
        b"N(N\x90.",
        b"NNR.",
        b"NNb.",
        b"Kb",
        b"\x93.",
        b"NN\x93.",
        b"Pid\n.",
        b"NQ.",
        b"\x97.",
        b"\x98.",
        b"\x80\x09N.",
        b"cno newline",
        b"S'unfinished\n.",
        b"I12x\n.",
        b"Fnan.\n.",
        b"X\x02\x00\x00\x00\xff\xff.",
        b"\xff",
        b"csome\\d\nThing\n.",
        b"c\xff\nThing\n.",
        b"coneword\n\n.",
        b"(o.",
        b"\x92.",
        b"c_codecs\nencode\nNN\x86R.",
        b"ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"ctorch._utils\n_rebuild_parameter\n)R.",
        b"ctorch._utils\n_rebuild_sparse_tensor\n)R.",
        b"ctorch._tensor\n_rebuild_from_type_v2\n)R.",
        b"cnumpy.core.multiarray\nscalar\n)R.",
        b"cnumpy.core.multiarray\n_reconstruct\n)R.",
        b"ccollections\nOrderedDict\nK\x01\x85R.",
        b"ccollections\nOrderedDict\n](K\x01e\x85R.",
    ],
)
def test_damage_is_told(damaged: bytes) -> None:
    with pytest.raises(CheckpointError) as refusal:
        load(damaged)
    assert "\n" not in str(refusal.value)


def test_truncation_anywhere_is_told() -> None:
    whole = pickle.dumps({"a": [1, 2.5, "x", b"y", {1, 2}], "b": (None, True, Colour.RED), "c": np.arange(3)}, 2)
    load(whole)
    for length in range(len(whole)):
        with pytest.raises(CheckpointError):
            load(whole[:length])


_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats()
    | st.complex_numbers()
    | st.text()
    | st.binary()
    | st.binary().map(bytearray)
)
_keys = st.none() | st.booleans() | st.integers(-(2**59), 2**59) | st.floats(allow_nan=False) | st.text() | st.binary()
_plain = st.recursive(
    _scalars | st.sets(_keys) | st.frozensets(_keys),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(_keys | st.tuples(_keys, _keys), inner, max_size=5)
        | st.dictionaries(_keys, inner, max_size=5).map(collections.OrderedDict)
    ),
    max_leaves=20,
)


@given(value=_plain, protocol=st.integers(0, 5))
def test_plain_values_come_back_as_pickle_reads_them(value: object, protocol: int) -> None:
    pickled = pickle.dumps(value, protocol)
    assert same(load(pickled), pickle.loads(pickled))  # noqa: S301


@given(data=st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    for start in (b"", b"\x80\x02", b"\x80\x04(", b"]q\x00(", named("some", "Thing") + b")\x81q\x00"):
        with contextlib.suppress(WanderError):
            load(start + data + b".")


_RICH = pickle.dumps(
    {
        "array": np.arange(6.0).reshape(2, 3),
        "scalar": np.float32(1.5),
        "text": np.str_("a"),
        "options": argparse.Namespace(path=pathlib.PurePosixPath("a/b"), size=3),
        "set": {1, "a", (1, 2)},
        "bytes": b"\x00\xff",
        "counter": collections.Counter("aab"),
        "deque": collections.deque([1, 2], 5),
        "default": collections.defaultdict(list, a=[1]),
        "nested": [[Colour.RED, Slotted(), Options(a=1)], functools.partial(torch.nn.functional.relu, inplace=True)],
        "number": 2**100,
    },
    2,
)


@settings(max_examples=400)
@given(
    flips=st.lists(st.tuples(st.integers(0, len(_RICH) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.integers(0, 3),
)
def test_flipped_bytes_raise_nothing_else(flips: list[tuple[int, int]], cut: int) -> None:
    damaged = bytearray(_RICH)
    for position, value in flips:
        damaged[position] = value
    with contextlib.suppress(WanderError):
        load(bytes(damaged[: len(damaged) - cut]))


@pytest.mark.parametrize("protocol", range(6))
def test_objects_become_stubs(protocol: int) -> None:
    root = load(pickle.dumps({"a": Options(x=1), "n": argparse.Namespace(lr=0.1), "c": Colour.RED}, protocol))
    assert isinstance(root, dict)
    assert root["a"].name == f"{__name__}.Options"
    assert root["a"].mapping == {"x": 1}
    assert root["a"].attributes == {"origin": "here"}
    assert namespace(root["n"]) == {"lr": 0.1}
    assert root["c"].args == ("red",)
    assert repr(root["c"]) == f"Stub({__name__}.Colour)"


def test_namespace_of_other_values() -> None:
    assert namespace({"a": 1, 2: 3}) == {"a": 1}
    assert namespace([1]) == {}
    assert Stub("some.Thing", state=5).attributes == {}


def test_slots_and_nested_classes() -> None:
    slotted = load(pickle.dumps(Slotted(), 2))
    assert isinstance(slotted, Stub)
    assert slotted.attributes == {"width": 3}
    for protocol in (2, 4):
        nested = load(pickle.dumps(Outer.Inner(), protocol))
        assert isinstance(nested, Stub)
        assert nested.name.endswith("Outer.Inner")
        assert nested.attributes == {"depth": 2}


def test_a_state_is_never_set_on_the_stub() -> None:
    state = b"}(" + text("__class__") + text("x") + text("__dict__") + b"}" + text("name") + text("y") + b"u"
    stub = load(named("some", "Thing") + b")\x81" + state + b"b.")
    assert type(stub) is Stub
    assert stub.name == "some.Thing"
    assert stub.attributes == {"__class__": "x", "__dict__": {}, "name": "y"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (collections.deque([1, 2], 5), [1, 2]),
        (collections.deque([1]), [1]),
        (torch.Size([2, 3]), (2, 3)),
        (torch.float16, torch.float16),
        (torch.torch_version.TorchVersion("2.1.0"), "2.1.0"),
        (np.float32(0.5), 0.5),
        (np.int64(-3), -3),
        (np.bool_(True), True),
        (np.str_("text"), "text"),
        (np.bytes_(b"ab"), b"ab"),
        (bytearray(b"abc"), bytearray(b"abc")),
        (complex(1, -2), complex(1, -2)),
        (frozenset({1}), frozenset({1})),
        (b"", b""),
        (torch.nn.functional.relu, GlobalRef("torch.nn.functional.relu")),
        (torch.nn.functional.gelu, GlobalRef("torch._C._nn.gelu")),
        (torch.tanh, GlobalRef("torch.tanh")),
        (torch.nn.Linear, GlobalRef("torch.nn.modules.linear.Linear")),
        (np.ndarray, GlobalRef("numpy.ndarray")),
        (Calling(set, [1, 2]), {1, 2}),
        (Calling(dict, [("a", 1)]), {"a": 1}),
        (Calling(int, 5), 5),
        (Calling(float), 0.0),
        (Calling(copyreg._reconstructor, dict, dict, {"a": 1}), None),  # type: ignore[attr-defined]
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_known_types(value: object, expected: object, protocol: int) -> None:
    root = load(pickle.dumps(value, protocol))
    if expected is None:
        assert isinstance(root, Stub)
    else:
        assert same(root, expected)


@pytest.mark.parametrize(
    "value",
    [
        pathlib.PurePosixPath("a/b"),
        datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC),
        datetime.timedelta(1),
        decimal.Decimal("1.5"),
        uuid.UUID(int=5),
        types.SimpleNamespace(a=1),
        functools.partial(torch.nn.functional.relu, inplace=True),
        torch.device("cuda:0"),
        torch.strided,
        range(10**12),
        slice(1, 2),
        Colour.RED,
        object(),
    ],
)
def test_inert_types(value: object) -> None:
    assert isinstance(load(pickle.dumps(value, 2)), Stub)


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        np.zeros((0, 3), np.float32),
        np.array(5, np.uint8),
        np.array([True, False]),
        np.array([1.5, 2.5], ">f4"),
        np.array([1 + 2j]),
    ],
    ids=str,
)
def test_numpy_arrays(array: np.ndarray[Any, Any], protocol: int) -> None:
    pickled = pickle.dumps([array, array], protocol)
    root = load(pickled)
    assert isinstance(root, list)
    assert same(root[0], pickle.loads(pickled)[0])  # noqa: S301
    assert np.array_equal(root[0], array)
    assert root[0] is root[1]
    assert root[0].flags.f_contiguous == array.flags.f_contiguous


def test_python_2_wrote_bytes_as_text() -> None:
    raw = np.array([1.5, -2.0]).tobytes()
    pickled = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\nt"
        b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nU" + bytes([len(raw)]) + raw + b"tb."
    )
    assert same(load(pickled), np.array([1.5, -2.0]))


@pytest.mark.parametrize(
    "array",
    [
        np.array([object()], dtype=object),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.array(["text"]),
        np.array(["2020-01-01"], "M8[D]"),
    ],
    ids=["object", "record", "text", "date"],
)
def test_other_arrays_are_refused(array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(CheckpointError):
        load(pickle.dumps(array, 2))


def test_an_array_is_filled_once() -> None:
    pickled = pickle.dumps(np.zeros(2), 2)
    state = b"(K\x01K\x01\x85cnumpy\ndtype\n" + text("u1") + b"\x85R\x89C\x01atb."
    with pytest.raises(CheckpointError, match="numpy array"):
        load(pickled[:-1] + state)


def test_errors_say_where() -> None:
    with pytest.raises(CheckpointError, match="near 'encoder"):
        load(b"}(" + text("encoder.weight") + b"ctorch._utils\n_rebuild_qtensor\n)R" + b"u.")
