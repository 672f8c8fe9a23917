"""Brings a service onto a Ray cluster, and takes it away again.

The new bundles are deployed beside the old; when they answer, the application is replaced, and only then do the old
ones go. What is deployed lives on without this process: Ray restarts what dies.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import httpx
import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.schema import ApplicationStatus, LoggingConfig

from serving.folders import model_folders, read_aliases
from serving.ray.ingress import IN_FLIGHT, Name, build
from serving.ray.replica import APPLICATION, Deployed, Replica
from serving.ray.settings import RaySettings
from wander.bundle import Bundle, versions
from wander.errors import BundleError, UsageError, WanderError

HEAD = "node:__internal_head__"
"""A resource that Ray gives to the head node alone."""
HEALTH_S = 2.0
"""How often Ray looks after a replica: so long it may take until the loss of one is made good."""
REACH_S = 5.0
"""How long a cluster's address may take to answer."""
LOOK_BACK_S = 15.0
"""Over how long Ray averages the load; it is told of it every 10 seconds."""
SILENT_S = 5.0
"""How long a replica may be silent about its health; three times in a row, and another takes its place."""
MAX_REQUESTS = 1000
"""Requests at once in one process of the application; its own limits refuse long before."""

Announce = Callable[[Sequence[str]], None]


def run(settings: RaySettings, announce: Announce) -> None:
    """Serves until a signal ends it, or with `detach` until the service is there.

    Raises WanderError if it cannot be there, UsageError for settings that cannot be.
    """
    settings.checked()
    names = plan(settings)
    with _connected(settings):
        before = _applications()
        url = _deploy(settings, names)
        _remove(before - {APPLICATION} - {one.application for one in _all(names)})
        announce(_told(url, names))
        if settings.detach:
            return
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        while not stop.wait(1.0):
            pass
        _remove({APPLICATION})
        _remove(_applications())


def plan(settings: RaySettings) -> list[Name]:
    """The latest version of every model of the folder, and those with an alias. Raises BundleError."""
    names = []
    for folder in model_folders(settings.models).values():
        aliases = read_aliases(folder)
        default = str(versions(folder)[-1])
        wanted = dict.fromkeys([default, *aliases.values()])
        names.append(Name(default, aliases, [Deployed.of(Bundle.open(folder / version)) for version in wanted]))
    if not names:
        raise BundleError(
            f"{settings.models} holds no models; make one with: wander export CHECKPOINT {settings.models}/NAME"
        )
    return names


def _all(names: Sequence[Name]) -> list[Deployed]:
    return [one for name in names for one in name.versions]


@contextmanager
def _connected(settings: RaySettings) -> Iterator[None]:
    if settings.log_level != "debug":
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anyone unasked
    try:
        if settings.address is None:
            ray.init(address="local", include_dashboard=False, log_to_driver=False)
        else:
            _reach(settings.address)
            ray.init(address=settings.address, log_to_driver=False)
    except OSError as error:
        raise UsageError(
            f"--address: there is no Ray cluster at {settings.address}: {_last_line(str(error))}"
        ) from error
    except Exception as error:  # of no class of their own: another version there, a node that does not come up in time
        raise WanderError(f"the Ray cluster cannot be used: {_last_line(str(error))}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raises OSError for an address where nobody listens, of which Ray would be sure only after minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()


def _deploy(settings: RaySettings, names: Sequence[Name]) -> str:
    """Bundles first, then the application. Returns where it answers."""
    http = {"host": settings.host, "port": settings.port}
    serve.start(proxy_location="HeadOnly", http_options=http, logging_config=_logging(settings))
    bundles = _all(names)
    _started([serve.RunTarget(_bundle(settings, one), one.application, route_prefix=None) for one in bundles], settings)
    _started([serve.RunTarget(_ingress(settings, names), APPLICATION, route_prefix="/")], settings)
    url = f"http://{settings.host}:{settings.port}"
    _answers(url, settings)
    return url


def _bundle(settings: RaySettings, deployed: Deployed) -> serve.Application:
    """The deployment of one bundle. It never queues: the application has its queue, and limits of it."""
    return serve.deployment(
        Replica,
        name="bundle",
        ray_actor_options={"num_cpus": settings.replica_cpus},
        max_ongoing_requests=IN_FLIGHT * settings.max_replicas,
        autoscaling_config=AutoscalingConfig(
            min_replicas=settings.min_replicas,
            max_replicas=settings.max_replicas,
            target_ongoing_requests=settings.target_batches,
            upscale_delay_s=settings.upscale_delay_s,
            downscale_delay_s=settings.downscale_delay_s,
            look_back_period_s=LOOK_BACK_S,
        ),
        health_check_period_s=HEALTH_S,
        health_check_timeout_s=SILENT_S,
        graceful_shutdown_timeout_s=settings.drain_s,
        logging_config=_logging(settings),
    ).bind(deployed, settings.of_replica())


def _ingress(settings: RaySettings, names: Sequence[Name]) -> serve.Application:
    """The deployment of the application, where Ray's proxy is: it does not go with any node that can be lost alone."""
    own = settings.of_ingress()

    def application() -> object:
        return build(own, names)

    return serve.deployment(
        serve.ingress(application)(),
        name="ingress",
        num_replicas=settings.ingress_replicas,
        ray_actor_options={"num_cpus": 0, "resources": {HEAD: 0.001}},
        max_ongoing_requests=MAX_REQUESTS,
        max_queued_requests=MAX_REQUESTS,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
        health_check_period_s=HEALTH_S,
        health_check_timeout_s=SILENT_S,
        graceful_shutdown_timeout_s=settings.drain_s,
        logging_config=_logging(settings),
    ).bind()


def _logging(settings: RaySettings) -> LoggingConfig:
    return LoggingConfig(log_level=settings.log_level.upper(), enable_access_log=settings.access_log)


def _applications() -> set[str]:
    """Ours, that are on the cluster."""
    names = serve.status().applications
    return {name for name in names if name == APPLICATION or name.startswith(f"{APPLICATION}-")}


def _started(targets: Sequence[serve.RunTarget], settings: RaySettings) -> None:
    """Deploys and waits. Raises WanderError with what Ray says of the first that cannot be deployed."""
    serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    until = time.monotonic() + settings.deploy_s
    waiting = {target.name for target in targets}
    while waiting:
        found = serve.status().applications
        for name in sorted(waiting & set(found)):
            status = found[name].status
            if status == ApplicationStatus.RUNNING:
                waiting.discard(name)
            elif status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
                said = " ".join(d.message for d in found[name].deployments.values()) or found[name].message
                raise WanderError(f"{name} cannot be deployed: {_last_line(said)}")
        if time.monotonic() > until:
            raise WanderError(
                f"{', '.join(sorted(waiting))} could not be deployed within --deploy-s {settings.deploy_s:g}; "
                f"are there {settings.min_replicas} times {settings.replica_cpus} cores free? See: ray status"
            )
        time.sleep(0.2)


def _last_line(text: str) -> str:
    """Of a traceback, what it is about."""
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["no reason is given"])[-1]


def _answers(url: str, settings: RaySettings) -> None:
    """Ray's proxy may have been started before, for another address, which cannot be changed while it runs."""
    until = time.monotonic() + settings.deploy_s
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    while True:
        try:
            answer = httpx.get(f"http://{host}:{settings.port}/readyz", timeout=5, trust_env=False)
        except httpx.TransportError as error:
            reason: object = error
        else:
            if answer.status_code == 200 and answer.json().get("status") == "ready":
                return
            reason = f"status {answer.status_code}"
        if time.monotonic() > until:
            raise UsageError(
                f"the service is deployed, but nothing answers at {url} ({reason}); if Ray Serve was started for "
                "another address, name that with --host and --port, or end it with: serve shutdown"
            )
        time.sleep(0.2)


def _remove(applications: set[str]) -> None:
    for name in sorted(applications):
        serve.delete(name)


def _told(url: str, names: Sequence[Name]) -> list[str]:
    lines = [f"serving on {url}  (documentation: {url}/docs)"]
    lines += [f"  {one.name} version {one.version}: deployed as {one.application}" for one in _all(names)]
    return lines
