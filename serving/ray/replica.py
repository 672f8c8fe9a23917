"""One replica of a bundle: its graphs, opened, tried and batched as in a server of their own. Knows no HTTP."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from serving.metrics import Metrics
from serving.model import open_model, open_sessions
from serving.ray.settings import RaySettings
from serving.tickets import Result
from wander.bundle import MANIFEST, Bundle
from wander.errors import BundleError, ServiceError
from wander.files import sha256
from wander.signature import Arrays


@dataclass(frozen=True)
class Deployed:
    """A bundle as it was when it was deployed; what is found elsewhere, or later, must be the same.

    Attributes:
        path: of its version's folder, on every node.
        manifest: sha256 of its manifest, which names that of every other file.
    """

    name: str
    version: str
    path: Path
    manifest: str

    @classmethod
    def of(cls, bundle: Bundle) -> Deployed:
        path = bundle.path.absolute()
        return cls(bundle.name, bundle.version, path, sha256(path / MANIFEST))

    @property
    def application(self) -> str:
        """Under which Ray Serve knows it. Other content has another name, and both can be there while one follows."""
        return f"{APPLICATION}-{self.name}-{self.version}-{self.manifest[:8]}"

    def open(self) -> Bundle:
        """Raises BundleError if this node has it not, or another."""
        try:
            bundle = Bundle.open(self.path)
            found = sha256(self.path / MANIFEST)
        except OSError as error:
            raise BundleError(f"{self.path} cannot be read on this node: {error}") from error
        if found != self.manifest:
            raise BundleError(f"{self.path} on this node is not what was deployed; run the command again to deploy it")
        return bundle


APPLICATION = "wander"


class Replica:
    """Answers are returned, errors of a service too: so they arrive as what they are, not as failures of Ray."""

    def __init__(self, deployed: Deployed, settings: RaySettings) -> None:
        """Verifies and tries the bundle on this node. Raises BundleError."""
        sessions = functools.partial(open_sessions, cores=settings.replica_cpus)
        self._model = open_model(deployed.open(), settings, Metrics(), sessions)

    async def infer(self, graph: str, inputs: Arrays) -> Result | ServiceError:
        """Rows through the batcher of a graph. They come from a queue with deadlines, and have none here."""
        try:
            return await self._model.queues[graph].submit(inputs)
        except ServiceError as error:
            return error

    async def describe(self) -> dict[str, str]:
        """What runs the graphs."""
        return self._model.engine
