"""What can be chosen of an export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from export.attention import Wanted
from export.precisions import Narrowing, precisions
from wander.engines import DEFAULT_ENGINE
from wander.errors import UsageError
from wander.manifest import Precision

FULL: Precision = "fp32"


@dataclass(frozen=True)
class Options:
    """Attributes:

    fold: apply the host's exact rewrites.
    max_batch_size: largest batch that the gate checks and the server forms.
    samples: an .npz of inputs; `data`: the folder of a data set, of which `split` is used. Without both, random inputs.
    seed: of random inputs.
    engine: the engine that has to answer as the reference does; by default that of the precision.
    precision: fp32, or the name of what narrows the graphs.
    explain: also make the graph that explains, where the task has a use for it and the host can. What is narrowed has
        none: its contributions would be those of other scores.
    attention: form of attention in the graphs; `auto` tries both of each on `engine`, here and now.
    """

    fold: bool = True
    max_batch_size: int = 32
    samples: Path | None = None
    data: Path | None = None
    split: str = "test"
    seed: int = 0
    engine: str | None = None
    precision: str = FULL
    explain: bool = True
    attention: Wanted = "products"

    @property
    def narrowing(self) -> type[Narrowing] | None:
        """What narrows the graphs; None for fp32. Raises UsageError for another name, or if real rows are missing."""
        if self.precision == FULL:
            return None
        if self.precision.replace("-", "_") not in precisions.names():
            known = ", ".join([FULL, *(name.replace("_", "-") for name in precisions.names())])
            raise UsageError(f"precision {self.precision!r} is not one that can be exported; use one of: {known}")
        kind = precisions.get(self.precision)
        if self.attention != "products":
            raise UsageError("the form of attention is open in fp32 only; leave --attention out, or export in fp32")
        if kind.calibrates and self.samples is None and self.data is None:
            raise UsageError(
                f"--precision {self.precision} is calibrated with real rows; name them: --data or --samples"
            )
        return kind

    @property
    def checked_on(self) -> str:
        """The engine that has to pass the gate."""
        return self.engine or (self.narrowing.engine if self.narrowing else DEFAULT_ENGINE)
