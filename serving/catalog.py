"""What is served: models by name and version, for those who ask. It is changed by the repository alone.

What is here is replaced whole, not altered, so that reading needs no lock.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from serving.model import Model
from wander.errors import BundleError, NotFound, NotReady
from wander.tasks.base import Item

LATEST = "latest"


@dataclass(frozen=True)
class Served:
    """What is loaded of one name. `default` answers those who name no version."""

    default: str
    versions: dict[str, Model] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)

    def get(self, version: str | None) -> Model | None:
        if version is None or version == LATEST:
            version = self.default
        return self.versions.get(self.aliases.get(version, version))


class Catalog:
    """Models by name, and their graphs by the names under which they are models of their own.

    A name that is evicted is known, but has no model until someone asks for it.
    """

    def __init__(self) -> None:
        self._served: dict[str, Served] = {}
        self._graphs: dict[str, tuple[str, str]] = {}
        self._evicted: frozenset[str] = frozenset()
        self._ready = False

    @property
    def ready(self) -> bool:
        return self._ready

    @property
    def models(self) -> list[Model]:
        """Everything that is loaded, by name; of one name the default first."""
        return [
            model
            for _, served in sorted(self._served.items())
            for model in sorted(served.versions.values(), key=lambda m: (m.version != served.default, order(m.version)))
        ]

    @property
    def defaults(self) -> list[Model]:
        """The version of every name that answers those who name none."""
        return [served.versions[served.default] for _, served in sorted(self._served.items())]

    def served(self, name: str) -> Served | None:
        """All that is loaded of one name."""
        return self._served.get(name)

    def get(self, name: str, version: str | None = None) -> Model:
        """Raises NotReady while models are being loaded, NotFound that names what there is."""
        if (served := self._served.get(name)) is not None:
            if (model := served.get(version)) is not None:
                return model
            known = ", ".join([*served.versions, *served.aliases])
            raise NotFound(f"model {name!r} has version {known} loaded, not {version!r}")
        if not self._ready:
            raise NotReady("the models are being loaded")
        if name in self._evicted:
            self.restore(name)
            raise NotReady(f"model {name!r} was unloaded to save memory and is being loaded again")
        raise NotFound(f"there is no model {name!r}; there are: {', '.join(sorted(self._served)) or 'none'}")

    def graph(self, name: str, version: str | None = None) -> tuple[Model, str]:
        """A graph by the name under which it is a model of its own. Raises as `get`."""
        if (found := self._graphs.get(name)) is not None:
            model = self.get(found[0], version)
            if found[1] in model.queues:  # versions of one name may have other graphs
                return model, found[1]
        model = self.get(name, version)
        raise NotFound(f"model {model.name!r} has several graphs; name one of them: {', '.join(model.graph_names())}")

    def only(self, task: str, item: Item | None = None) -> Model:
        """The only model of a task, or of several the only one whose items have the form of this.

        Raises NotReady, or NotFound if there is none or more than one.
        """
        if not self._ready:
            raise NotReady("the models are being loaded")
        found = [model for model in self.defaults if model.bundle.manifest.task == task]
        if len(found) > 1 and item is not None:
            found = [model for model in found if model.task.fits(item)] or found
        if len(found) == 1:
            return found[0]
        if not found:
            raise NotFound(f"there is no model for the task {task!r} here")
        names = ", ".join(model.name for model in found)
        raise NotFound(f"several models do the task {task!r}; name one of them as model: {names}")

    def restore(self, name: str) -> None:
        """Is told of every request for a name that is evicted."""

    # Changes, for one thread at a time

    def _put(self, name: str, served: Served) -> None:
        """The swap. Raises BundleError if a graph would have the name of another model's."""
        graphs = {key: owner for key, owner in self._graphs.items() if owner[0] != name}
        for model in served.versions.values():
            for known_as, graph in model.graph_names().items():
                if (owner := graphs.setdefault(known_as, (name, graph))) != (name, graph):
                    raise BundleError(
                        f"graph {graph!r} of model {name!r} would be called {known_as!r}, as one of model {owner[0]!r} "
                        "is; rename a folder"
                    )
        self._graphs = graphs
        self._served = {**self._served, name: served}
        self._evicted -= {name}

    def _remove(self, name: str, *, evict: bool = False) -> list[Model]:
        """Hands a name out no more, and returns what was loaded of it. Who asks for an evicted one brings it back."""
        served = self._served.get(name)
        if evict:
            self._evicted |= {name}
        else:
            self._evicted -= {name}
            self._graphs = {key: owner for key, owner in self._graphs.items() if owner[0] != name}
        self._served = {key: value for key, value in self._served.items() if key != name}
        return list(served.versions.values()) if served else []


def order(version: str) -> tuple[int, str]:
    """Numbers by their size."""
    return len(version), version
