"""Draws a report: `python plot.py REPORT.json PLOT.png`. Runs in an environment of its own, with matplotlib."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def main(report: Path, out: Path) -> None:
    models = json.loads(report.read_text(encoding="utf-8"))["models"]
    figure, axes = plt.subplots(len(models), 2, figsize=(13, 5 * len(models)), squeeze=False)
    for (name, model), (left, right) in zip(models.items(), axes, strict=True):
        ceiling = max(statistics.median(one["turns"]) for one in model["ceiling"]["items_per_s"])
        left.axhline(ceiling, color="black", linestyle=":", label="ONNX Runtime in process")
        cases = [case for case in model["cases"] if case["loads"]]
        binary = {case["server"] for case in cases if case["form"] == "binary"}
        for case in cases:
            if case["form"] != "binary" and case["server"] in binary:
                continue  # the table has them all
            ours = case["server"].startswith("wander")
            style = {"marker": "o", "linewidth": 2.5 if ours else 1.2, "linestyle": "-" if ours else "--"}
            connections = sorted(map(int, case["loads"]))
            label = f"{case['server']} ({case['form']})"
            for axis, what in ((left, "requests_per_s"), (right, "p99_ms")):
                values = [statistics.median(one[what] for one in case["loads"][str(c)]) for c in connections]
                axis.plot(connections, values, label=label, **style)
        left.set_ylabel("requests/s")
        right.set_ylabel("p99, ms")
        right.set_yscale("log")
        for axis in (left, right):
            axis.set_xscale("log", base=2)
            axis.set_xlabel("connections")
            axis.set_title(f"{name} model")
            axis.grid(alpha=0.3)
        left.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
