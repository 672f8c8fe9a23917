"""`wander`, with an engine that fails on marked rows: whatever is asked of it, the fault is known beforehand."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wander.engines.ort import OrtSession
from wander.errors import EngineError
from wander.signature import Arrays

MARK = 12345.0
"""A row whose first number is this fails."""


def install() -> None:
    """Makes every session of ONNX Runtime in this process fail on batches with a marked row."""
    run = OrtSession._run

    def failing(self: OrtSession, inputs: Arrays) -> dict[str, NDArray[Any]]:
        first = next(iter(inputs.values()))
        if first.dtype.kind == "f" and np.any(first.reshape(len(first), -1)[:, 0] == MARK):
            raise EngineError("an injected fault")
        return run(self, inputs)

    OrtSession._run = failing  # type: ignore[method-assign]


if __name__ in ("__main__", "__mp_main__"):  # the latter in a worker
    install()

if __name__ == "__main__":
    from wander.__main__ import main

    main(sys.argv[1:])
