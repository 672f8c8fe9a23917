"""The same keys over gRPC, and the same ids and traces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.auth import Role
from serving.auth.access import GRPC
from serving.settings import Settings
from tests.serving.auth.test_access import BURST, KEYS, SLOW, bearer, keys
from tests.serving.building import Running, running

__all__ = ["keys"]

Code = grpc.StatusCode
READ = "ModelMetadata"


@pytest.fixture(scope="module")
def stub(models: Path, keys: Path) -> Iterator[Any]:
    settings = Settings(models=models, keys=str(keys), model_control="explicit", grpc_port=0)
    with running(settings) as started, grpc.insecure_channel(started.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def asked(stub: Any, name: str, key: str | None) -> grpc.StatusCode:
    """How a call ends for the holder of a key."""
    metadata = [(n.lower(), v) for n, v in bearer(key).items()] if key else []
    request = getattr(service_pb2, f"{name}Request")()
    if name in ("ModelMetadata", "ModelConfig"):
        request.name = "mosi"
    try:
        getattr(stub, name)(request, metadata=metadata)
    except grpc.RpcError as error:
        return error.code()  # type: ignore[attr-defined]
    return Code.OK


UNARY = sorted(set(GRPC) - {"ModelStreamInfer"})


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("key", [None, "wander_none", *KEYS.values()])
def test_every_call_asks_for_what_the_table_says(stub: Any, name: str, key: str | None) -> None:
    needed = GRPC[name]
    code = asked(stub, name, key)
    refusals = {Code.UNAUTHENTICATED, Code.PERMISSION_DENIED}
    if needed == "open":
        assert code not in refusals
    elif key not in KEYS.values():
        assert code == Code.UNAUTHENTICATED
    elif key == KEYS[Role(needed)]:
        assert code not in refusals
    else:
        assert code == Code.PERMISSION_DENIED


def test_rate_of_a_key_counts_for_calls(stub: Any) -> None:
    codes = [asked(stub, READ, SLOW) for _ in range(BURST + 1)]
    assert codes == [Code.OK] * BURST + [Code.RESOURCE_EXHAUSTED]


def test_admin_calls_are_off_without_keys(models: Path) -> None:
    settings = Settings(models=models, model_control="explicit", grpc_port=0)
    with running(settings) as started, grpc.insecure_channel(started.grpc) as channel:
        open_stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert asked(open_stub, READ, None) == Code.OK
        assert asked(open_stub, "RepositoryModelLoad", None) == Code.PERMISSION_DENIED


def test_running_says_where_grpc_listens(models: Path) -> None:
    with running(Settings(models=models, grpc_port=0)) as started:
        assert isinstance(started, Running)
        assert started.grpc.rpartition(":")[2].isdecimal()
