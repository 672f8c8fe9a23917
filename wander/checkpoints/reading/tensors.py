"""Tensors from storages: the dtypes of torch's storage classes, and views that are checked against their storage.

Knows nothing of files: whoever reads one hands over `Storage`s. All tensors are on the CPU, without gradients; tensors
over one storage share its memory, as they did when they were saved.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from wander.checkpoints.reading.policy import shown
from wander.checkpoints.reading.stubs import GlobalRef
from wander.errors import CheckpointError, UnsafeCheckpoint

_MAX_DIMENSIONS = 64

_DTYPES: dict[str, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
    "int32": torch.int32,
    "int16": torch.int16,
    "int8": torch.int8,
    "uint64": torch.uint64,
    "uint32": torch.uint32,
    "uint16": torch.uint16,
    "uint8": torch.uint8,
    "bool": torch.bool,
    "complex64": torch.complex64,
    "complex128": torch.complex128,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
    "float8_e4m3fnuz": torch.float8_e4m3fnuz,
    "float8_e5m2fnuz": torch.float8_e5m2fnuz,
    "double": torch.float64,
    "float": torch.float32,
    "half": torch.float16,
    "long": torch.int64,
    "int": torch.int32,
    "short": torch.int16,
}
CONSTANTS = {f"torch.{name}": dtype for name, dtype in _DTYPES.items()}

_STORAGE_DTYPES: dict[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
    "_UntypedStorage": torch.uint8,
}


@dataclass(frozen=True, eq=False)
class Storage:
    """The bytes behind one or more tensors.

    Attributes:
        key: its name in the file.
        dtype: of its elements; uint8 for untyped storages.
        data: uint8, shape (number of bytes,).
    """

    key: str
    dtype: torch.dtype
    data: torch.Tensor


@dataclass(frozen=True)
class StorageId:
    """What a pickle says of a storage: `key`, `dtype`, number of elements, and the legacy format's view of another."""

    key: str
    dtype: torch.dtype
    numel: int
    view: object = None

    @property
    def nbytes(self) -> int:
        """Declared size in bytes."""
        return self.numel * self.dtype.itemsize

    @classmethod
    def parse(cls, persistent_id: object) -> StorageId:
        """Reads `("storage", class, key, location, numel[, view])`; the location (e.g. `cuda:0`) does not matter here.

        Raises:
            CheckpointError: it has another form, or a class of storage that is not supported.
            UnsafeCheckpoint: the key is a path.
        """
        match persistent_id:
            case ("storage", GlobalRef(name), str(key), str(location), int(numel), *view) if (
                numel >= 0 and len(view) < 2
            ):
                dtype = _STORAGE_DTYPES.get(name.rsplit(".", 1)[1]) if name.startswith("torch.") else None
                if "/" in key or "\\" in key or ".." in key:
                    raise UnsafeCheckpoint(f"the storage key {shown(key)} is a path; the file was refused")
                if dtype is None or location == "meta":
                    kind = name if dtype is None else "a storage on the meta device, which has no data,"
                    raise CheckpointError(
                        f"storage {shown(key)!r}: {kind} is not supported; save plain CPU tensors instead"
                    )
                return cls(key, dtype, numel, view[0] if view else None)
        raise CheckpointError("a storage is described in a form that torch does not write; the file is damaged")


def rebuild_tensor(args: tuple[object, ...]) -> torch.Tensor:
    """`(storage, offset, size, stride)` and whatever follows: version 1 and 2 of torch's tensors.

    Raises:
        CheckpointError: another form, or a view that does not lie within its storage. The message names the storage.
    """
    match args:
        case (Storage() as storage, offset, size, stride):
            return _view(storage, storage.dtype, offset, size, stride)
        case (Storage() as storage, offset, size, stride, _, _, *metadata) if len(metadata) < 2:
            _refuse_metadata(storage, metadata)
            return _view(storage, storage.dtype, offset, size, stride)
    raise _malformed("_rebuild_tensor_v2")


def rebuild_tensor_v3(args: tuple[object, ...]) -> torch.Tensor:
    """`(storage, offset, size, stride, requires_grad, hooks, dtype[, metadata])`: dtypes without a storage class."""
    match args:
        case (Storage() as storage, offset, size, stride, _, _, torch.dtype() as dtype, *metadata) if len(metadata) < 2:
            _refuse_metadata(storage, metadata)
            return _view(storage, dtype, offset, size, stride)
    raise _malformed("_rebuild_tensor_v3")


def rebuild_parameter(args: tuple[object, ...]) -> torch.Tensor:
    """`(tensor, requires_grad, hooks[, state])`, or the bare `(tensor,)` of old files: the tensor."""
    match args:
        case (torch.Tensor() as tensor, *rest) if len(rest) < 4:
            return tensor
    raise _malformed("_rebuild_parameter")


def rebuild_from_type(args: tuple[object, ...]) -> torch.Tensor:
    """`(function, type, args[, state])`: tensors that carry Python attributes, which are dropped.

    Raises:
        CheckpointError: another form, or a subclass of Tensor.
    """
    match args:
        case (GlobalRef(function), GlobalRef(kind), tuple(inner), *_) if function in _DIRECT:
            if kind not in _PLAIN_TENSORS:
                raise CheckpointError(f"a tensor of the subclass {kind} is not supported; save plain tensors instead")
            return _DIRECT[function](inner)
    raise _malformed("_rebuild_from_type_v2")


def _unsupported(kind: str) -> Callable[[tuple[object, ...]], torch.Tensor]:
    def refuse(args: tuple[object, ...]) -> torch.Tensor:
        raise CheckpointError(f"{kind} ({len(args)} parts) is not supported; save it as a plain dense CPU tensor")

    return refuse


_PLAIN_TENSORS = frozenset({"torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"})

_DIRECT: dict[str, Callable[[tuple[object, ...]], torch.Tensor]] = {
    "torch._utils._rebuild_tensor": rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": rebuild_parameter,
    "torch.nn.parameter.Parameter": rebuild_parameter,
    "torch.autograd.variable.Variable": rebuild_parameter,
    "torch._utils._rebuild_qtensor": _unsupported("a quantized tensor"),
    "torch._utils._rebuild_sparse_tensor": _unsupported("a sparse tensor"),
    "torch._utils._rebuild_sparse_csr_tensor": _unsupported("a sparse tensor"),
    "torch._utils._rebuild_meta_tensor_no_storage": _unsupported("a tensor on the meta device, which has no data,"),
    "torch._utils._rebuild_nested_tensor": _unsupported("a nested tensor"),
    "torch._utils._rebuild_wrapper_subclass": _unsupported("a tensor of a wrapper subclass"),
    "torch._utils._rebuild_xla_tensor": _unsupported("a tensor of an XLA device"),
    "torch._utils._rebuild_device_tensor_from_numpy": _unsupported("a tensor of a foreign device"),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _unsupported("a tensor of a foreign device"),
}

REBUILDERS = _DIRECT | {
    "torch._tensor._rebuild_from_type": rebuild_from_type,
    "torch._tensor._rebuild_from_type_v2": rebuild_from_type,
}
"""What torch writes for tensors, by the name of its function; each takes the arguments and gives the tensor."""


def _view(storage: Storage, dtype: torch.dtype, offset: object, size: object, stride: object) -> torch.Tensor:
    shape, steps = _extents(size), _extents(stride)
    if shape is None or steps is None or len(shape) != len(steps) or type(offset) is not int or offset < 0:
        raise CheckpointError(
            f"a tensor over storage {shown(storage.key)!r} has an impossible shape; the file is damaged"
        )
    numel = math.prod(shape)
    held = storage.data.numel() // dtype.itemsize
    reach = offset + 1 + sum((extent - 1) * step for extent, step in zip(shape, steps, strict=True)) if numel else 0
    if reach > held or numel > held:
        raise CheckpointError(
            f"a tensor of shape {shape} does not lie within its storage {shown(storage.key)!r} of {held} elements; "
            "the file is damaged"
        )
    if not numel:
        return torch.empty(shape, dtype=dtype)
    elements = storage.data[: held * dtype.itemsize].view(dtype)
    return elements.as_strided(shape, steps, elements.storage_offset() + offset)


def _extents(value: object) -> tuple[int, ...] | None:
    """A shape or strides, or None if it is not one that a tensor can have."""
    if not isinstance(value, tuple | list) or len(value) > _MAX_DIMENSIONS:
        return None
    extents = tuple(value)
    if not all(type(extent) is int and extent >= 0 for extent in extents):
        return None
    # Larger products overflow torch's own arithmetic, even where another extent is 0.
    return extents if math.prod(extent for extent in extents if extent) < 2**62 else None


def _refuse_metadata(storage: Storage, metadata: list[object]) -> None:
    if any(metadata):
        raise CheckpointError(
            f"the tensor over storage {shown(storage.key)!r} is a lazy conjugate or negative; save it resolved"
        )


def _malformed(function: str) -> CheckpointError:
    return CheckpointError(f"{function} is given arguments that torch does not write; the file is damaged")
