"""Which names a checkpoint may mention. The answer is about names only: nothing is ever imported or looked up.

The interpreter runs nothing whatever the name, so this is a second wall, and the one that tells the user that a file
is not what it pretends to be. The standard library, torch and numpy are closed but for what real checkpoints hold;
other packages are open (their classes become inert stubs) but for those whose business is to run or install code.
"""

from __future__ import annotations

import re
import sys

from wander.errors import UnsafeCheckpoint

_PYTHON2 = {"__builtin__": "builtins", "copy_reg": "copyreg", "UserDict": "collections", "UserList": "collections"}

# Modules of other Python versions are as closed as those of the running one.
_STANDARD = sys.stdlib_module_names | set(
    "__builtin__ copy_reg commands popen2 os2 ce riscos thread dummy_thread _winreg urllib2 urlparse httplib xmlrpclib "
    "cPickle cStringIO StringIO SocketServer SimpleXMLRPCServer BaseHTTPServer CGIHTTPServer SimpleHTTPServer Tkinter "
    "distutils imp asyncore asynchat smtpd pipes cgi cgitb crypt nis spwd telnetlib nntplib xdrlib uu lib2to3 test "
    "ensurepip idlelib turtledemo compression annotationlib".split()
)

_STANDARD_ALLOWED = frozenset(
    "argparse.Namespace functools.partial types.SimpleNamespace copyreg._reconstructor _codecs.encode "
    "collections.OrderedDict collections.defaultdict collections.Counter collections.deque collections.ChainMap "
    "collections.UserDict collections.UserList "
    "datetime.date datetime.datetime datetime.time datetime.timedelta datetime.timezone "
    "decimal.Decimal fractions.Fraction uuid.UUID uuid.SafeUUID "
    "enum.Enum enum.IntEnum enum.StrEnum enum.Flag enum.IntFlag "
    "logging.getLogger logging.Logger logging.RootLogger "
    "builtins.set builtins.frozenset builtins.list builtins.dict builtins.tuple builtins.int builtins.float "
    "builtins.bool builtins.complex builtins.str builtins.slice builtins.bytes builtins.bytearray builtins.object "
    "builtins.range builtins.xrange builtins.long builtins.unicode builtins.Ellipsis builtins.getattr".split()
) | {
    f"{module}.{kind}"
    for module in ("pathlib", "pathlib._local")
    for kind in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
}

_ACTIVATIONS = frozenset(
    "relu relu_ relu6 gelu silu mish tanh sigmoid elu elu_ selu celu leaky_relu leaky_relu_ prelu rrelu softplus "
    "softsign softmax log_softmax softmin logsigmoid hardtanh hardswish hardsigmoid hardshrink softshrink tanhshrink "
    "threshold glu erf sin cos exp".split()
)
_ACTIVATION_MODULES = ("torch", "torch.nn.functional", "torch._C._nn")

_TORCH_ALLOWED = frozenset(
    "torch.Size torch.device torch.torch_version.TorchVersion torch.serialization._get_layout "
    "torch.autograd.variable.Variable torch.utils.hooks.RemovableHandle torch._C._VariableFunctionsClass "
    "torch._tensor._rebuild_from_type torch._tensor._rebuild_from_type_v2 "
    "torch._utils._rebuild_tensor torch._utils._rebuild_tensor_v2 torch._utils._rebuild_tensor_v3 "
    "torch._utils._rebuild_parameter torch._utils._rebuild_parameter_with_state "
    "torch._utils._rebuild_qtensor torch._utils._rebuild_sparse_tensor torch._utils._rebuild_sparse_csr_tensor "
    "torch._utils._rebuild_meta_tensor_no_storage torch._utils._rebuild_nested_tensor "
    "torch._utils._rebuild_wrapper_subclass torch._utils._rebuild_xla_tensor "
    "torch._utils._rebuild_device_tensor_from_numpy torch._utils._rebuild_device_tensor_from_cpu_tensor "
    "torch.per_tensor_affine torch.per_tensor_symmetric torch.per_channel_affine torch.per_channel_symmetric "
    "torch.per_channel_affine_float_qparams "
    "torch.amp.grad_scaler._refresh_per_optimizer_state torch.cuda.amp.grad_scaler._refresh_per_optimizer_state "
    "torch.float64 torch.float32 torch.float16 torch.bfloat16 torch.double torch.float torch.half "
    "torch.int64 torch.int32 torch.int16 torch.int8 torch.uint8 torch.uint16 torch.uint32 torch.uint64 torch.bool "
    "torch.long torch.int torch.short torch.complex64 torch.complex128 torch.complex32 torch.qint8 torch.quint8 "
    "torch.qint32 torch.quint4x2 torch.quint2x4 torch.float8_e4m3fn torch.float8_e5m2 torch.float8_e4m3fnuz "
    "torch.float8_e5m2fnuz torch.float8_e8m0fnu".split()
) | {f"{module}.{function}" for module in _ACTIVATION_MODULES for function in _ACTIVATIONS}
_TORCH_DATA_CLASS = re.compile(r"torch\.(?:cuda\.|storage\.)?_?[A-Z]\w*(?:Storage|Tensor)|torch\.Tensor")
_TORCH_CLASS_MODULE = re.compile(r"torch\.(?:nn|optim|utils\.data|amp|cuda\.amp)(?:\.\w+)*")
_CLASS_NAME = re.compile(r"_*[A-Z]\w*(?:\._*[A-Z]\w*)*")

_NUMPY_ALLOWED = frozenset(
    f"numpy.{name}"
    for name in (
        "dtype ndarray bool_ bool str_ bytes_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 intc uintc longlong "
        "ulonglong float16 float32 float64 complex64 complex128 "
        "core.multiarray._reconstruct core.multiarray.scalar core.numeric._frombuffer "
        "_core.multiarray._reconstruct _core.multiarray.scalar _core.numeric._frombuffer"
    ).split()
)

_RUNNERS = frozenset(
    "pip setuptools pkg_resources _distutils_hack wheel cloudpickle dill joblib jsonpickle yaml ruamel IPython "
    "ipykernel pexpect ptyprocess sh plumbum fabric invoke paramiko cffi numexpr numba psutil pytest _pytest py "
    "hypothesis torchgen functorch triton caffe2 tensorflow keras cppyy win32api win32com pythoncom".split()
)


def admit(module: str, qualname: str) -> str:
    """The dotted name under which `qualname` of `module` may stand in a checkpoint (Python 2 names in today's form).

    Raises:
        UnsafeCheckpoint: no checkpoint needs it; the message names it.
    """
    module = _PYTHON2.get(module, module)
    name = f"{module}.{qualname}"
    package = module.split(".")[0]
    if not _is_dotted_name(module, qualname):
        allowed = False
    elif package in _STANDARD:
        allowed = name in _STANDARD_ALLOWED
    elif package == "torch":
        allowed = (
            name in _TORCH_ALLOWED
            or _TORCH_DATA_CLASS.fullmatch(name) is not None
            or (_TORCH_CLASS_MODULE.fullmatch(module) is not None and _CLASS_NAME.fullmatch(qualname) is not None)
        )
    elif package == "numpy":
        allowed = name in _NUMPY_ALLOWED
    else:
        # `Model.os.system` reaches a standard module through somebody else's class.
        allowed = package not in _RUNNERS and not any(part in _STANDARD for part in qualname.split(".")[:-1])
    if not allowed:
        raise refused(name)
    return name


def refused(name: str) -> UnsafeCheckpoint:
    """The error for a name that no checkpoint needs."""
    return UnsafeCheckpoint(
        f"the checkpoint asks for {shown(name)}, which no checkpoint needs; it was refused and nothing was run"
    )


def shown(text: str, limit: int = 120) -> str:
    """`text` for a message: on one line, printable, cut at `limit` characters."""
    cut = text if len(text) <= limit else text[:limit] + "..."
    return cut if cut.isascii() and cut.isprintable() else ascii(cut)


def _is_dotted_name(module: str, qualname: str) -> bool:
    """True for plain identifiers without `__special__` ones; a script's own classes live in `__main__`."""
    parts = qualname.split(".") if module in ("__main__", "__mp_main__") else f"{module}.{qualname}".split(".")
    return all(part.isidentifier() and not (part.startswith("__") and part.endswith("__")) for part in parts)
