"""Our messages are those of the protocol, and the Python module is what the `.proto` says.

After a change of the `.proto`, in an environment with grpcio-tools whose protobuf is not newer than the pinned one:

    python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. serving/protocols/_kserve.proto
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from tritonclient.grpc import model_config_pb2, service_pb2

from serving.protocols import _kserve_pb2 as pb
from serving.protocols._tensors import NAMES

ROOT = Path(__file__).resolve().parents[3]
SOURCE = "serving/protocols/_kserve.proto"
THEIRS: dict[str, Any] = {
    **model_config_pb2.DESCRIPTOR.message_types_by_name,
    **service_pb2.DESCRIPTOR.message_types_by_name,
}


def described(field: Any) -> tuple[Any, ...]:
    """All of a field that is on the wire, or in its JSON."""
    kind = field.message_type or field.enum_type
    oneof = field.containing_oneof
    return (
        field.number,
        field.type,
        field.is_repeated,
        field.is_packed,
        kind and kind.full_name.partition(".")[2].removeprefix("kserve."),
        oneof and oneof.name,
    )


def compare(ours: Any, theirs: Any) -> None:
    assert ours.GetOptions().map_entry == theirs.GetOptions().map_entry
    for name, field in ours.fields_by_name.items():
        assert name in theirs.fields_by_name, f"{ours.full_name}.{name} is not in the protocol"
        assert described(field) == described(theirs.fields_by_name[name]), f"{ours.full_name}.{name}"
    for name, nested in ours.nested_types_by_name.items():
        compare(nested, theirs.nested_types_by_name[name])


@pytest.mark.parametrize("name", pb.DESCRIPTOR.message_types_by_name)
def test_messages_are_those_of_the_protocol(name: str) -> None:
    compare(pb.DESCRIPTOR.message_types_by_name[name], THEIRS[name])


def test_messages_of_inference_are_whole() -> None:
    """What a client can say there must not be lost: it would be answered as if it had not been said."""
    for name in ("ModelInferRequest", "ModelInferResponse", "InferTensorContents", "InferParameter"):
        ours, theirs = pb.DESCRIPTOR.message_types_by_name[name], THEIRS[name]
        assert set(ours.fields_by_name) == set(theirs.fields_by_name)
        for nested, described_as in theirs.nested_types_by_name.items():
            assert set(ours.nested_types_by_name[nested].fields_by_name) == set(described_as.fields_by_name)


def test_enumerations_are_those_of_the_protocol() -> None:
    theirs = model_config_pb2.DESCRIPTOR.enum_types_by_name["DataType"]
    for value in pb.DESCRIPTOR.enum_types_by_name["DataType"].values:
        assert theirs.values_by_name[value.name].number == value.number
    assert {f"TYPE_{name}" for name in NAMES.values()} <= set(pb.DataType.keys())


def test_package_is_our_own() -> None:
    assert pb.DESCRIPTOR.package == "wander.kserve"
    assert service_pb2.DESCRIPTOR.package == "inference"


def test_module_has_every_name_and_number_of_the_source() -> None:
    """A coarse check, which needs no compiler: the lines `name = number;` of both."""
    written = re.findall(r"(\w+) = (\d+);", (ROOT / SOURCE).read_text())
    proto = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(proto)

    def numbers(message: Any) -> list[tuple[str, str]]:
        own = [] if message.options.map_entry else [(field.name, str(field.number)) for field in message.field]
        return own + [pair for nested in message.nested_type for pair in numbers(nested)]

    generated = [pair for message in proto.message_type for pair in numbers(message)]
    generated += [(value.name, str(value.number)) for enum in proto.enum_type for value in enum.value]
    assert sorted(generated) == sorted(written)


def test_module_is_what_the_source_says(tmp_path: Path) -> None:
    if importlib.util.find_spec("grpc_tools") is None:
        pytest.skip("grpcio-tools, the compiler of .proto files, is not installed")
    target = tmp_path / "set.pb"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--descriptor_set_out={target}", SOURCE]
    subprocess.run(command, check=True, cwd=ROOT)
    (compiled,) = FileDescriptorSet.FromString(target.read_bytes()).file
    proto = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(proto)
    for one in (compiled, proto):
        one.ClearField("source_code_info")
    stripped = FileDescriptorProto.FromString(compiled.SerializeToString())
    for message in _messages(stripped):
        for field in message.field:
            field.ClearField("json_name")
    for message in _messages(proto):
        for field in message.field:
            field.ClearField("json_name")
    assert stripped == proto


def _messages(file: Any) -> Any:
    todo = list(file.message_type)
    while todo:
        message = todo.pop()
        yield message
        todo += message.nested_type
