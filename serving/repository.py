"""The control plane: load, swap, unload, drain; and what it says of itself. Knows neither requests nor HTTP.

A new version takes the place of the old one only after it was verified, warmed and tried; the old one is closed when
nobody uses it any more. A bad version changes nothing, and `index` says why. Changes run in threads, one at a time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serving.catalog import LATEST, Catalog, Served, order
from serving.folders import fingerprint, model_folders, read_aliases
from serving.memory import give_back
from serving.metrics import Metrics, QueueCollector
from serving.model import Model, OpenSessions, open_model, weights_bytes
from serving.settings import Settings
from wander.bundle import Bundle, versions
from wander.errors import BundleError, Forbidden, NotFound, WanderError

log = logging.getLogger(__name__)

State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]


@dataclass(frozen=True)
class Status:
    """What the repository says of one version: `reason` why it is not ready, if it is not."""

    name: str
    version: str
    state: State
    reason: str = ""


class Repository(Catalog):
    """The models in `settings.models`, as `settings.model_control` wants them.

    `none`: all are loaded at the start, and stay. `poll`: the folder is followed, see `refresh`. `explicit`:
    `load_model` and `unload_model` say what is served; at the start, all of it, or what `settings.load` names.

    Args:
        sessions: what runs the graphs, if they are not run in this process.
    """

    def __init__(self, settings: Settings, metrics: Metrics, sessions: OpenSessions | None = None) -> None:
        super().__init__()
        self._sessions = sessions
        self.settings = settings
        self.metrics = metrics
        self._notes: dict[tuple[str, str], Status] = {}
        self._refused: dict[tuple[str, str], object] = {}  # what the model's folder was like when it failed
        self._restoring: set[str] = set()
        self._control = threading.RLock()
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="repository")
        metrics.registry.register(QueueCollector(_Queues(self)))

    def index(self) -> list[Status]:
        """Every version there is in the folder or in memory, and what is known of it."""
        folders = model_folders(self.settings.models)
        found = {
            (n, str(v)): Status(n, str(v), "UNAVAILABLE") for n, folder in folders.items() for v in versions(folder)
        }
        found |= self._notes.copy()
        found |= {(m.name, m.version): Status(m.name, m.version, "READY") for m in self.models}
        return [found[key] for key in sorted(found, key=lambda key: (key[0], order(key[1])))]

    # What is asked for

    def load(self, bundles: Sequence[Bundle] | None = None) -> None:
        """Loads the given bundles, or what the folder holds, and is ready then. Blocks.

        Raises BundleError for a folder without models, or for a bad bundle. A folder that is polled may be empty, and
        may hold bad bundles.
        """
        with self._control:
            if bundles is not None:
                for bundle in bundles:
                    self._serve(bundle.name, bundle.version, [bundle])
            elif self.settings.model_control == "poll":
                self.refresh()
            else:
                for name in self._at_start():
                    self._load(name)
            self._ready = True

    def load_model(self, name: str, version: str | None = None) -> Model:
        """Serves a version (the latest, if none is named) in place of the one that is served. Blocks.

        Raises Forbidden unless models are controlled explicitly, NotFound, and BundleError for a bad bundle, in which
        case all stays as it was.
        """
        self._may_control()
        with self._control:
            return self._load(name, version)

    def unload_model(self, name: str) -> None:
        """Serves nothing under this name any more. Raises Forbidden and NotFound."""
        self._may_control()
        with self._control:
            if name not in self._served and name not in self._evicted:
                raise NotFound(f"there is no model {name!r} loaded; there are: {', '.join(sorted(self._served))}")
            self._retire(self._remove(name))

    def refresh(self) -> None:
        """Follows the folder: new latest versions and aliases are loaded, what has gone is unloaded. Blocks.

        A version that could not be loaded is tried again when something in its model's folder changes.
        """
        with self._control:
            folders = model_folders(self.settings.models)
            for name in {*self._served, *self._evicted} - set(folders):
                self._retire(self._remove(name))
            for name, folder in folders.items():
                if name not in self._evicted:
                    self._follow(name, folder)

    def restore(self, name: str) -> None:
        """Loads an evicted model again, in a thread; once, however many ask for it."""
        if name not in self._restoring:
            self._restoring.add(name)
            self._threads.submit(self._restore, name)

    def close(self) -> None:
        """Finishes what waits, within the drain time, and closes every model."""
        self._ready = False
        with self._control:
            self._ready = False
            closing = [self._threads.submit(model.close, self.settings.drain_s) for model in self.models]
            self._served, self._graphs, self._evicted = {}, {}, frozenset()
        for one in closing:
            one.result()
        self._threads.shutdown()

    # How it is done; all of it with `_control` held

    def _may_control(self) -> None:
        if self.settings.model_control != "explicit":
            raise Forbidden(
                f"this server runs with --model-control {self.settings.model_control}; "
                "models can be loaded and unloaded with --model-control explicit"
            )

    def _at_start(self) -> list[str]:
        if self.settings.model_control == "explicit" and self.settings.load is not None:
            return [name for name in self.settings.load.split(",") if name]
        folder = self.settings.models
        if not (names := list(model_folders(folder))):
            raise BundleError(f"{folder} holds no models; make one with: wander export CHECKPOINT {folder}/NAME")
        return names

    def _follow(self, name: str, folder: Path) -> None:
        """Serves the latest version that can be served. One that cannot is left alone until its folder changes."""
        now = fingerprint(folder)
        for version in map(str, reversed(versions(folder))):
            if self._refused.get((name, version)) == now:
                continue
            served = self._served.get(name)
            try:
                if served is None or served.default != version or served.aliases != read_aliases(folder):
                    self._load(name, version)
                self._refused.pop((name, version), None)
                return
            except WanderError as error:
                self._refused[name, version] = now
                log.error("%s version %s is not served: %s", name, version, error)

    def _load(self, name: str, version: str | None = None) -> Model:
        """Serves a version, and beside it those with an alias."""
        folder = model_folders(self.settings.models).get(name)
        if folder is None:
            raise NotFound(f"there is no model {name!r} in {self.settings.models}")
        aliases = read_aliases(folder)
        found = [str(v) for v in versions(folder)]
        version = found[-1] if version in (None, LATEST) else aliases.get(version or "", version)
        if version not in found:
            raise NotFound(f"model {name!r} has no version {version!r} in {folder}; it has {', '.join(found)}")
        bundles = []
        for one in dict.fromkeys([version, *aliases.values()]):
            try:
                bundles.append(Bundle.open(folder / one))
            except (BundleError, OSError) as error:
                raise self._refusal(name, one, error) from error
        return self._serve(name, version, bundles, aliases)

    def _serve(
        self, name: str, default: str, bundles: Sequence[Bundle], aliases: dict[str, str] | None = None
    ) -> Model:
        """Opens bundles of one name, and puts them in the place of what is served under it."""
        before = list(self._served[name].versions.values()) if name in self._served else []
        models: list[Model] = []
        try:
            for bundle in bundles:
                same = next((m for m in before if m.version == bundle.version), None)
                kept = same is not None and same.bundle.manifest == bundle.manifest
                models.append(same if same is not None and kept else self._open(bundle))
            served = Served(default, {model.version: model for model in models}, aliases or {})
            self._put(name, served)
        except WanderError:
            self._retire([model for model in models if model not in before])
            raise
        for model in models:
            if model not in before:
                log.info("loaded %s version %s (%s)", name, model.version, model.engine["provider"])
        self._retire([model for model in before if model not in models])
        return served.versions[default]

    def _open(self, bundle: Bundle) -> Model:
        key = bundle.name, bundle.version
        self._notes[key] = Status(*key, "LOADING")
        try:
            self._make_room(bundle)
            model = open_model(bundle, self.settings, self.metrics, self._sessions)
        except (WanderError, OSError) as error:
            raise self._refusal(*key, error) from error
        self._notes.pop(key, None)
        return model

    def _refusal(self, name: str, version: str, error: Exception) -> WanderError:
        """Notes why a version is not served."""
        self._notes[name, version] = Status(name, version, "UNAVAILABLE", str(error))
        return error if isinstance(error, WanderError) else BundleError(f"{name}/{version} cannot be read: {error}")

    def _retire(self, models: Sequence[Model]) -> None:
        """Closes, in a thread, what is not handed out any more."""

        def close(model: Model) -> None:
            model.close(self.settings.drain_s)
            with self._control:  # the same version may be on its way back
                if not any(other.labels == model.labels for other in self.models):
                    self._notes.pop((model.name, model.version), None)
                    self.metrics.forget(model.labels)
            give_back()

        for model in models:
            log.info("unloading %s version %s", model.name, model.version)
            self._notes[model.name, model.version] = Status(model.name, model.version, "UNLOADING")
            self._threads.submit(close, model)

    def _make_room(self, bundle: Bundle) -> None:
        """Unloads models that nobody uses, the longest unused first, until the bundle fits the memory budget."""
        budget = self.settings.memory_mb * 1e6
        needed = weights_bytes(bundle) * max(1, self.settings.instances)
        idle = sorted(
            (max(m.used for m in served.versions.values()), name)
            for name, served in self._served.items()
            if name != bundle.name and not any(m.leases for m in served.versions.values())
        )
        while budget and (taken := sum(model.bytes for model in self.models)) + needed > budget:
            if not idle:
                raise BundleError(
                    f"{bundle.name} version {bundle.version} needs {needed / 1e6:.1f} MB, and the models in use take "
                    f"{taken / 1e6:.1f} MB of the {budget / 1e6:.1f} MB of --memory-mb"
                )
            _, name = idle.pop(0)
            log.info("unloading %s to save memory", name)
            self._retire(self._remove(name, evict=True))

    def _restore(self, name: str) -> None:
        try:
            with self._control:
                if name in self._evicted:
                    self._load(name)
        except WanderError as error:
            log.error("%s could not be loaded again: %s", name, error)
        finally:
            self._restoring.discard(name)


class _Queues:
    """The rows that wait for every graph of a repository, whenever they are read."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def __iter__(self) -> Iterator[tuple[tuple[str, ...], int]]:
        for model in self._repository.models:
            for graph, queue in model.queues.items():
                yield (*model.labels, graph), queue.queue_rows
