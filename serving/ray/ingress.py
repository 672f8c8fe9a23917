"""The application on Ray: `serving.app` as it is, over models whose graphs are run by other deployments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastapi import FastAPI
from prometheus_client import Counter
from ray import serve

from serving.app import create_app
from serving.logs import configure
from serving.metrics import Metrics
from serving.model import try_session
from serving.ray.remote import RemoteSession, Usual
from serving.ray.replica import Deployed
from serving.ray.settings import RaySettings
from serving.repository import Repository
from serving.settings import Settings
from wander.bundle import Bundle
from wander.engines import Session

IN_FLIGHT = 2
"""Batches in flight for every replica there may be: one that is computed, one on its way."""


@dataclass(frozen=True)
class Name:
    """What is deployed under one name. `default` answers those who name no version."""

    default: str
    aliases: Mapping[str, str]
    versions: Sequence[Deployed]


class DeployedModels(Repository):
    """Serves what was deployed, whatever the folder holds by now."""

    def __init__(self, settings: RaySettings, metrics: Metrics, names: Sequence[Name]) -> None:
        super().__init__(settings, metrics, self._remote)
        self._names = names
        self._replicas = settings.max_replicas
        self._applications = {(one.name, one.version): one.application for name in names for one in name.versions}
        self._lost = Counter(
            "wander_replicas_lost_total",
            "Calls of a replica that it did not live to answer; another was asked.",
            ("model", "version"),
            registry=metrics.registry,
        )

    def load(self, bundles: Sequence[Bundle] | None = None) -> None:
        assert bundles is None
        with self._control:
            for name in self._names:
                opened = [one.open() for one in name.versions]
                self._serve(opened[0].name, name.default, opened, dict(name.aliases))
            self._ready = True

    def _remote(self, bundle: Bundle, graph: str, settings: Settings) -> list[Session]:
        """Sessions of one graph; a replica has answered its samples as its export did."""
        handle = serve.get_app_handle(self._applications[bundle.name, bundle.version])
        signature = bundle.manifest.graphs[graph].signature
        lost = self._lost.labels(bundle.name, bundle.version).inc
        patience = settings.timeout_ms / 1000
        usual, count = Usual(), IN_FLIGHT * self._replicas
        sessions = [RemoteSession(handle, graph, signature, patience, usual, lost) for _ in range(count)]
        try_session(bundle, graph, sessions[0])
        return list(sessions)


def build(settings: RaySettings, names: Sequence[Name]) -> FastAPI:
    """The application, in the process of its replica."""
    configure(settings)

    def repository(_: Settings, metrics: Metrics) -> Repository:
        return DeployedModels(settings, metrics, names)

    return create_app(settings, repository=repository, indexes=False)
