"""What `wander ray` takes, and what it deploys; without Ray."""

from __future__ import annotations

import asyncio
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.ray.replica import Deployed, Replica
from serving.ray.settings import ELSEWHERE, RaySettings
from serving.settings import Settings
from tests.serving.building import Linear, publish, random_rows
from wander.bundle import Bundle
from wander.errors import BundleError, NotReady, UsageError

MODEL = Linear()
"""What the bundle holds."""


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"workers": 2}, "--workers"),
        ({"grpc_port": 0}, "--grpc-port"),
        ({"model_control": "poll"}, "--model-control"),
        ({"load": "a"}, "--load"),
        ({"memory_mb": 5}, "--memory-mb"),
        ({"max_connections": 5}, "--max-connections"),
        ({"indexes": "elsewhere"}, "--indexes"),
        ({"min_replicas": 5}, "--max-replicas 4"),
        ({"detach": True}, "--address"),
        ({"port": 0}, "--port 0"),
    ],
)
def test_what_means_nothing_on_ray_is_refused(given: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        RaySettings(**given).checked()


def test_settings_of_the_server_that_mean_something_are_there() -> None:
    assert set(ELSEWHERE) < set(Settings.model_fields) < set(RaySettings.model_fields)
    assert RaySettings().checked() == RaySettings()


def test_replicas_know_no_keys() -> None:
    settings = RaySettings(keys='[{"name": "a", "key": "secret"}]', batch_delay_ms=5)
    assert "secret" not in repr(pickle.dumps(settings.of_replica()))
    assert settings.of_replica().batch_delay_ms == 5
    assert (settings.of_ingress().keys, settings.of_ingress().batch_delay_ms) == (settings.keys, 0)
    assert Path(RaySettings(keys="keys.json").of_ingress().keys or "").is_absolute()


def test_replica_answers_errors_too(bundle: Bundle) -> None:
    deployed, settings = Deployed.of(bundle), RaySettings(models=bundle.path.parents[1], replica_cpus=2)
    replica = Replica(pickle.loads(pickle.dumps(deployed)), settings)  # noqa: S301
    inputs = random_rows(3)
    answer = asyncio.run(replica.infer("model", inputs))
    assert not isinstance(answer, Exception)
    np.testing.assert_allclose(answer.outputs[MODEL.output], MODEL(inputs)[MODEL.output], rtol=1e-5)
    assert int(asyncio.run(replica.describe())["instances"]) == 2  # a small graph: one a core of the replica
    replica._model.close(1)
    assert isinstance(asyncio.run(replica.infer("model", inputs)), NotReady)


@pytest.mark.parametrize("change", ["other", "gone"])
def test_node_that_holds_something_else(bundle: Bundle, change: str) -> None:
    deployed = Deployed.of(bundle)
    shutil.rmtree(bundle.path)
    if change == "other":
        publish(bundle.path.parent, Linear(seed=5))
    with pytest.raises(
        BundleError, match="on this node is not what was deployed" if change == "other" else "is no bundle"
    ):
        Replica(deployed, RaySettings())


def test_other_content_is_another_application(bundle: Bundle) -> None:
    before = Deployed.of(bundle)
    assert before == Deployed.of(bundle)
    shutil.rmtree(bundle.path)
    publish(bundle.path.parent, Linear(seed=5))
    after = Deployed.of(Bundle.open(bundle.path))
    assert (after.name, after.version) == (before.name, before.version)
    assert after.application != before.application
