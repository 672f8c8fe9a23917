"""The roof of this machine: how fast the best library at hand multiplies in fp32, bf16 and int8, on all threads.

    python -m benchmarks.roofline [--seconds 6] [--out FILE]

Every library is given the same products, and as many seconds; what counts is its best product at its best size. A
process that runs beside it lowers what is found: see the load average at the start.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks._peaks import SIZES, peaks, roofs
from benchmarks.results import circumstances, publish, table


def main(
    seconds: Annotated[float, typer.Option(help="For every library and precision.")] = 6.0,
    threads: Annotated[int, typer.Option(help="Of torch; 0: all. Engines take all.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Small products, for a test.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write FILE.md and FILE.json.")] = None,
) -> None:
    """Measured peaks, library by library."""
    if threads:
        torch.set_num_threads(threads)
    about = circumstances("benchmarks.roofline", ("torch", "onnxruntime", "openvino", "numpy"))
    found = peaks(0.03 if quick else seconds, ((64, 64, 64),) if quick else SIZES)
    best = roofs(found)
    rows = [
        [
            peak.precision,
            peak.library,
            " x ".join(map(str, peak.size)),
            f"{peak.gflops:,.0f}",
            f"{peak.gflops / best[peak.precision]:.0%}",
        ]
        for peak in sorted(found, key=lambda peak: (peak.precision, -peak.gflops))
    ]
    columns = ["precision", "library", "M x K x N", "GFLOP/s (int8: Gop/s)", "of the best"]
    publish("The roof", about, [table(columns, rows, 3)], {"peaks": [asdict(peak) for peak in found]}, out)


if __name__ == "__main__":
    typer.run(main)
