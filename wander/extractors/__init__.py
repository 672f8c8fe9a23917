"""Extractors: what an expert sees in, or hears of, a video file, as rows of numbers. One extractor per file; no torch.

`Watching` binds those that a manifest names, and makes the features of a file in one pass over it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from wander.errors import BundleError, ConfigError, InputError, MissingDependency
from wander.extractors._clip import RATE, Wanted, read_clip
from wander.extractors._limits import VideoLimits
from wander.extractors.base import Extractor, Features
from wander.manifest import first_problem
from wander.registry import Registry

extractors: Registry[Extractor] = Registry("wander.extractors", Extractor)

KIND = "kind"


class Watching:
    """The extractors of one model.

    Attributes:
        bound: expert -> its extractor.
    """

    def __init__(
        self, declared: Mapping[str, Mapping[str, Any]], folder: Path, limits: VideoLimits, *, serving: bool = True
    ) -> None:
        """Binds what is declared: expert -> `{"kind": name of an extractor, ..its settings}`.

        Args:
            folder: in which the files are that the settings name.
            serving: whether extractors that need torch are left out: their experts are then made by none.

        Raises BundleError for what is not known or does not fit, MissingDependency.
        """
        self.limits = limits
        self.bound: dict[str, Extractor] = {}
        for name, given in declared.items():
            settings = dict(given)
            try:
                kind = extractors.get(str(settings.pop(KIND, "")))
                config = kind.Config.model_validate(settings)
            except ConfigError as error:
                raise BundleError(f"extractors.{name}.{KIND}: {error}") from error
            except ValidationError as error:
                raise BundleError(f"extractors.{name}.{first_problem(error)}") from error
            if kind.served or not serving:
                self.bound[name] = kind(config, folder)
        if self.bound and importlib.util.find_spec("av") is None:
            raise MissingDependency("video files are read with PyAV; run: pip install 'wander[serve]'")

    def __call__(self, data: object, field: str = "video") -> dict[str, Features]:
        """What each expert makes of a file; one that finds nothing is left out.

        Raises InputError, or one of its kinds, that names the field: `read_clip` says for what; and for a file in which
        no expert finds anything.
        """
        bound = self.bound.values()
        wanted = Wanted(
            step=min((one.step for one in bound if one.reads == "pictures"), default=None),
            side=max((one.side for one in bound), default=0),
            sound=any(one.reads == "sound" for one in bound),
        )
        clip = read_clip(data, wanted, self.limits, field)
        found = {name: features for name, one in self.bound.items() if (features := one(clip)) is not None}
        if not found:
            seen, heard = len(clip.pictures), len(clip.sound) / RATE
            raise InputError(
                f"{field} gives {seen} pictures and {heard:.1f} seconds of sound, in which none of the experts "
                f"({', '.join(self.bound)}) finds anything; send another",
                field,
            )
        return found


__all__ = ["Extractor", "Features", "VideoLimits", "Watching", "extractors"]
