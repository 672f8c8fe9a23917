"""What the calls in a checkpoint become: plain containers, numbers, tensors and arrays by our own code, else a stub.

Each entry of the table takes the arguments that the file gives, accepts those that pickling really writes, and refuses
all others, so that a call costs no more memory than the parts it is made of. Knows names and values, not opcodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from wander.checkpoints.reading import arrays
from wander.checkpoints.reading.arrays import Spend
from wander.checkpoints.reading.policy import admit, refused
from wander.checkpoints.reading.stubs import GlobalRef, Stub
from wander.checkpoints.reading.tensors import REBUILDERS
from wander.errors import CheckpointError

Args = tuple[object, ...]

_LATIN_1 = ("latin1", "latin-1")
_KEY_PARTS = (str, float, bytes, bool, type(None))
_MAX_KEY_PARTS = 32


def call(name: str, args: Args, kwargs: dict[str, object], spend: Spend) -> object:
    """What calling `name` stands for; nothing of that name is called.

    Args:
        name: a name that `policy.admit` let pass.
        args: the arguments, already built.
        kwargs: the same by name.
        spend: told the number of elements or bytes before they are copied; raises where the file asks for too many.

    Raises:
        UnsafeCheckpoint: arguments that nothing in a checkpoint is made with.
        CheckpointError: a tensor or an array that cannot be built.
    """
    if name in _CONSTRUCTORS:
        if kwargs:
            raise refused(f"{name} with named arguments")
        return _CONSTRUCTORS[name](name, args, spend)
    return Stub(name, args, kwargs)


def as_key(key: object) -> object:
    """`key`, if it may be a key of a dict or a member of a set: it hashes and compares at once and without recursion.

    Raises:
        CheckpointError: it may not.
    """
    if _is_simple(key) or isinstance(key, Stub | GlobalRef | torch.dtype):
        return key
    if isinstance(key, tuple) and len(key) <= _MAX_KEY_PARTS and all(_is_simple(part) for part in key):
        return key
    raise CheckpointError(
        f"a key of type {type(key).__name__} is not supported, only text, numbers and flat tuples of these are"
    )


def _is_simple(key: object) -> bool:
    # Larger integers can be chosen to have one and the same hash.
    return isinstance(key, _KEY_PARTS) or (type(key) is int and key.bit_length() <= 60)


def _bad_arguments(name: str) -> CheckpointError:
    return refused(f"{name} with arguments that it is never saved with")


def _elements(name: str, args: Args, spend: Spend) -> Iterable[object]:
    match args:
        case ():
            return ()
        case (list() | tuple() | set() | frozenset() | dict() as items,):
            spend(len(items))
            return items
    raise _bad_arguments(name)


def _list(name: str, args: Args, spend: Spend) -> object:
    return list(_elements(name, args, spend))


def _tuple(name: str, args: Args, spend: Spend) -> object:
    return tuple(_elements(name, args, spend))


def _set(name: str, args: Args, spend: Spend) -> object:
    return {as_key(item) for item in _elements(name, args, spend)}


def _frozenset(name: str, args: Args, spend: Spend) -> object:
    return frozenset(as_key(item) for item in _elements(name, args, spend))


def _deque(name: str, args: Args, spend: Spend) -> object:
    match args:
        case (*items, int() | None) if len(items) == 1:
            return _list(name, tuple(items), spend)
    return _list(name, args, spend)


def _dict(name: str, args: Args, spend: Spend) -> object:
    items = _elements(name, args, spend)
    if isinstance(items, dict):
        return dict(items)
    pairs: dict[object, object] = {}
    for item in items:
        match item:
            case (key, value):
                pairs[as_key(key)] = value
            case _:
                raise _bad_arguments(name)
    return pairs


def _defaultdict(name: str, args: Args, spend: Spend) -> object:
    match args:
        case (None | GlobalRef() | Stub(), *rest):
            return _dict(name, tuple(rest), spend)
    return _dict(name, args, spend)


def _number(kind: type[object]) -> Callable[[str, Args, Spend], object]:
    """`kind()` of nothing or of a value that is one already."""

    def build(name: str, args: Args, spend: Spend) -> object:
        match args:
            case ():
                return kind()
            case (value,) if type(value) is kind:
                return value
        raise _bad_arguments(name)

    return build


def _complex(name: str, args: Args, spend: Spend) -> object:
    match args:
        case (float(real), float(imaginary)):
            return complex(real, imaginary)
    raise _bad_arguments(name)


def _bytes(name: str, args: Args, spend: Spend) -> object:
    match args:
        case ():
            return b""
        case (bytes(data),):
            return data
    raise _bad_arguments(name)


def _bytearray(name: str, args: Args, spend: Spend) -> object:
    match args:
        case (str(), str()):
            return bytearray(_encode(name, args, spend))
        case (bytes(data),):
            spend(len(data))
            return bytearray(data)
        case ():
            return bytearray()
    raise _bad_arguments(name)


def _encode(name: str, args: Args, spend: Spend) -> bytes:
    """How protocol 2 writes bytes."""
    match args:
        case (str(text), str(encoding)) if encoding in _LATIN_1:
            spend(len(text))
            try:
                return text.encode("latin-1")
            except UnicodeEncodeError as error:
                raise _bad_arguments(name) from error
    raise _bad_arguments(name)


def _text(name: str, args: Args, spend: Spend) -> object:
    match args:
        case (str(text),):
            return text
    raise _bad_arguments(name)


def _attribute(name: str, args: Args, spend: Spend) -> object:
    """How protocol 2 refers to a nested class, and to `torch.tanh`. The name that comes out must be admitted itself."""
    match args:
        case (GlobalRef("torch._C._VariableFunctionsClass"), str(attribute)):
            return GlobalRef(admit("torch", attribute))
        case (GlobalRef(owner), str(attribute)):
            module, _, qualname = owner.rpartition(".")
            return GlobalRef(admit(module, f"{qualname}.{attribute}"))
    raise _bad_arguments(name)


def _reconstructor(name: str, args: Args, spend: Spend) -> object:
    """Protocols 0 and 1: `(class, base, value of the base)`."""
    match args:
        case (GlobalRef(kind), GlobalRef(), dict(mapping)):
            return Stub(kind, mapping=mapping)
        case (GlobalRef(kind), GlobalRef(), list(items)):
            return Stub(kind, items=items)
        case (GlobalRef(kind), GlobalRef(), value):
            return Stub(kind, () if value is None else (value,))
    raise _bad_arguments(name)


def _tensor(name: str, args: Args, spend: Spend) -> object:
    return REBUILDERS[name](args)


_CONSTRUCTORS: dict[str, Callable[[str, Args, Spend], object]] = {
    **dict.fromkeys(REBUILDERS, _tensor),
    "builtins.list": _list,
    "builtins.tuple": _tuple,
    "builtins.set": _set,
    "builtins.frozenset": _frozenset,
    "builtins.dict": _dict,
    "builtins.int": _number(int),
    "builtins.long": _number(int),
    "builtins.float": _number(float),
    "builtins.bool": _number(bool),
    "builtins.str": _number(str),
    "builtins.unicode": _number(str),
    "builtins.complex": _complex,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytearray,
    "builtins.getattr": _attribute,
    "_codecs.encode": _encode,
    "copyreg._reconstructor": _reconstructor,
    "collections.OrderedDict": _dict,
    "collections.Counter": _dict,
    "collections.defaultdict": _defaultdict,
    "collections.deque": _deque,
    "torch.Size": _tuple,
    "torch.torch_version.TorchVersion": _text,
    "numpy.core.multiarray._reconstruct": lambda name, args, spend: arrays.empty(args),
    "numpy._core.multiarray._reconstruct": lambda name, args, spend: arrays.empty(args),
    "numpy.core.multiarray.scalar": lambda name, args, spend: arrays.scalar(args, spend),
    "numpy._core.multiarray.scalar": lambda name, args, spend: arrays.scalar(args, spend),
    "numpy.core.numeric._frombuffer": lambda name, args, spend: arrays.from_buffer(args, spend),
    "numpy._core.numeric._frombuffer": lambda name, args, spend: arrays.from_buffer(args, spend),
}
