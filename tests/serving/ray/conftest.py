"""A Ray cluster of two nodes on this machine, and `wander ray` on it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.serving.building import PATIENCE, Linear
from tests.serving.conftest import WANDER

STORE = 80 << 20
"""Bytes of a node's object store: the least that Ray takes, or near it."""
NOTICE = {"health_check_period_ms": 1000, "health_check_timeout_ms": 1000, "health_check_failure_threshold": 3}
"""How soon a cluster notices that a node has gone."""
TRIES = 3
"""Ray gives a node 30 seconds to start, which on busy cores is not always enough, and cannot be told to wait longer."""
CPUS = 3
"""Of each node, as Ray counts them: room for a version beside the one before it."""
HOLD_MS = 200
"""How long a replica lets a batch wait for company: so that at any moment some are in flight."""
START_S = 240.0
"""Seconds: on two busy cores a dozen processes take their time."""
MODEL = "mosi"


@dataclass(frozen=True)
class Cluster:
    """Two nodes: the head, and one that can be lost. `nodes` is Ray's own handle of them."""

    nodes: Any
    other: Any

    @property
    def address(self) -> str:
        return str(self.nodes.address)

    def raylet(self, node: Any) -> int:
        return int(node.all_processes["raylet"][0].process.pid)

    def replicas(self, node: Any) -> list[int]:
        """Process ids of the replicas of the model's bundle on a node."""
        return children(self.raylet(node), f"ServeReplica:wander-{MODEL}")

    def signal(self, number: signal.Signals) -> None:
        """To the other node as a whole: its raylet, and what that runs."""
        raylet = self.raylet(self.other)
        for process in (raylet, *children(raylet)):
            with suppress(ProcessLookupError):
                os.kill(process, number)


def children(parent: int, named: str = "") -> list[int]:
    """Processes that one has started, whose command line holds a text."""
    found = subprocess.run(["pgrep", "-P", str(parent), "-f", named], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


@pytest.fixture(scope="session")
def needs_ray() -> None:
    if find_spec("ray") is None:
        pytest.skip("needs Ray, which is large: make test-ray")


@pytest.fixture(scope="module")
def cluster(needs_ray: None) -> Iterator[Cluster]:
    folder = tempfile.mkdtemp(prefix="wander-")  # short, for the sockets in it
    for left in reversed(range(TRIES)):
        try:
            started = two_nodes(folder)
            break
        except Exception as error:
            if "timed out during startup" not in str(error) or not left:
                raise
    yield started
    started.nodes.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def two_nodes(folder: str) -> Cluster:
    """Raises what Ray raises, after what has been started was ended."""
    from ray.cluster_utils import Cluster as Nodes

    node = {"num_cpus": CPUS, "object_store_memory": STORE}
    head = {**node, "include_dashboard": False, "temp_dir": folder, "_system_config": NOTICE}
    nodes = Nodes()
    try:
        nodes.add_node(**head)
        other = nodes.add_node(**node)
        nodes.wait_for_nodes()
    except BaseException:
        nodes.shutdown()
        raise
    return Cluster(nodes, other)


@dataclass(frozen=True)
class Serving:
    """A running `wander ray`."""

    url: str
    cluster: Cluster
    model: Linear

    @property
    def replicas(self) -> list[int]:
        """Those of both nodes."""
        return [*self.cluster.replicas(self.cluster.nodes.head_node), *self.cluster.replicas(self.cluster.other)]

    def expected(self, inputs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Scores (rows, 1)."""
        return self.model(inputs)[self.model.output]

    def ready(self) -> bool:
        return httpx.get(f"{self.url}/readyz", timeout=PATIENCE, trust_env=False).status_code == 200

    def sample(self, name: str) -> float:
        """Sum of a metric over its labels."""
        text = httpx.get(f"{self.url}/metrics", timeout=PATIENCE, trust_env=False).text
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name}{{"))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def wander_ray(folder: Path, port: int, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The command, once it says that it serves. Asked to end when the block ends."""
    command = [WANDER, "ray", folder, "--port", str(port), "--log-level", "warning", "--batch-delay-ms", str(HOLD_MS)]
    process = subprocess.Popen([*command, "--drain-s", "2", *options], stderr=subprocess.PIPE, text=True)
    watchdog = threading.Timer(START_S, process.kill)
    watchdog.start()
    try:
        assert process.stderr is not None
        lines: list[str] = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("serving on"):
                break
        else:
            pytest.fail("".join(lines))
        yield process
    finally:
        watchdog.cancel()
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=START_S)
        finally:
            process.kill()
