"""Two nodes under load, one of which is lost: every request is answered or refused, and all replicas come back."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.building import Linear, publish, wait_until
from tests.serving.ray.conftest import MODEL, Cluster, Serving, free_port, wander_ray
from tests.serving.ray.load import Load

BACK_S = 60.0
"""Within this the lost replica must run elsewhere."""
BEFORE_S, AFTER_S = 3.0, 3.0


@pytest.fixture(scope="module")
def serving(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Two replicas, one on each node."""
    folder: Path = tmp_path_factory.mktemp("ray") / "models"
    _, model = publish(folder / MODEL, Linear())
    port = free_port()
    with wander_ray(folder, port, "--address", cluster.address, "--min-replicas", "2", "--max-replicas", "2"):
        started = Serving(f"http://127.0.0.1:{port}", cluster, model)
        wait_until(started.ready)
        yield started


@pytest.mark.parametrize("cluster", [signal.SIGKILL, signal.SIGSTOP], indirect=True, ids=["killed", "frozen"])
def test_node_is_lost_under_load(
    serving: Serving, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    number = request.node.callspec.params["cluster"]
    cluster = serving.cluster
    assert [len(cluster.replicas(node)) for node in (cluster.nodes.head_node, cluster.other)] == [1, 1]
    with Load(serving) as load:
        time.sleep(BEFORE_S)
        healthy = load.counted()
        gone = cluster.replicas(cluster.other)
        died = time.monotonic()
        cluster.signal(number)
        until = died + BACK_S
        while len(cluster.replicas(cluster.nodes.head_node)) < 2 and time.monotonic() < until:
            time.sleep(0.1)
        started = time.monotonic() - died
        time.sleep(AFTER_S)
        settled = time.monotonic()
        time.sleep(AFTER_S)
    counted = load.counted()
    slowest = max(seconds for _, seconds, _ in load.answers)
    lost = serving.sample("wander_replicas_lost_total")
    rates = sum(healthy.values()) / BEFORE_S, sum(load.counted(settled).values()) / AFTER_S
    report = (
        f"{number.name}: {sum(counted.values())} requests: {dict(counted)}, {len(load.wrong)} wrong; slowest "
        f"{slowest:.2f} s; another replica after {started:.1f} s; {lost:.0f} calls asked of another replica; "
        f"requests/s before {rates[0]:.0f}, after {rates[1]:.0f}"
    )
    with capsys.disabled():
        sys.stdout.write(f"\n{report}\n")
    assert started < BACK_S
    assert gone
    assert load.wrong == []
    assert set(counted) <= {"200", "429", "503", "504"}
    assert set(load.counted(settled)) == {"200"}
    assert lost >= 1  # calls were in flight on the node when it died
