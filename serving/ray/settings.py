"""Settings of a service on Ray: those of the server, and how far it scales."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field

from serving.settings import Settings
from wander.errors import UsageError

ELSEWHERE = {
    "indexes": "an index has one holder, which no process here can be for good",
    **dict.fromkeys(("index_server", "index_exact_mb", "index_recall"), "there are no indexes; see --indexes"),
    "workers": "Ray runs the processes; see --max-replicas and --ingress-replicas",
    "grpc_port": "Ray's proxy passes on HTTP alone",
    "demo": "its pages hold sessions; run it beside the service: wander demo --url",
    "demo_key": "there is no demonstration here",
    "model_control": "the command that is run again swaps models",
    "load": "every model of the folder is served",
    "memory_mb": "Ray places replicas by their cores",
    "max_connections": "Ray's proxy holds the connections",
    "keep_alive_s": "Ray's proxy holds the connections",
}
"""Settings of the server that mean nothing here -> why."""


class RaySettings(Settings):
    """`models` is a folder that every node finds under the same path."""

    address: str | None = Field(
        default=None, description="Ray cluster to run on: HOST:PORT, or auto. Without it, one is started here."
    )
    min_replicas: int = Field(default=1, ge=1, description="Replicas of every bundle that always run.")
    max_replicas: int = Field(default=4, ge=1, description="Replicas of a bundle at most.")
    target_batches: float = Field(
        default=1.5, gt=0, description="Batches in flight per replica; more of them start replicas, fewer end some."
    )
    upscale_delay_s: float = Field(default=10.0, ge=0, description="How long load is too high before replicas start.")
    downscale_delay_s: float = Field(default=300.0, ge=0, description="How long it is too low before some end.")
    replica_cpus: int = Field(default=1, ge=1, description="Cores of one replica: those of its engine instances.")
    ingress_replicas: int = Field(default=1, ge=1, description="Processes of the application, all on the head node.")
    deploy_s: float = Field(default=300.0, gt=0, description="How long a service may take to be there.")
    detach: bool = Field(default=False, description="Leave the service on the cluster, and return once it is there.")

    def checked(self) -> Self:
        """The same. Raises UsageError for settings that cannot be, together or on Ray."""
        for name, why in ELSEWHERE.items():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise UsageError(f"--{name.replace('_', '-')} means nothing on Ray: {why}")
        if self.min_replicas > self.max_replicas:
            raise UsageError(f"--min-replicas {self.min_replicas} is more than --max-replicas {self.max_replicas}")
        if self.detach and self.address is None:
            raise UsageError(
                "--detach needs the --address of a cluster; one that is started here ends with the command"
            )
        if self.port == 0:
            raise UsageError("--port 0: Ray's proxy needs a port of its own")
        return self

    def of_replica(self) -> RaySettings:
        """What a bundle's replica may know: no keys."""
        return self.model_copy(update={"keys": None})

    def of_ingress(self) -> RaySettings:
        """What the application may know. Replicas, who see the engine, let rows wait and find the best batch size."""
        keys = self.keys if self.keys is None or self.keys.lstrip().startswith("[") else str(Path(self.keys).absolute())
        return self.model_copy(update={"batch_delay_ms": 0.0, "adaptive_batching": False, "keys": keys})
