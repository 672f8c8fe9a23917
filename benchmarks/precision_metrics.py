"""What every precision costs the shipped, trained models: their task's metric on the test split, and their size.

    python -m benchmarks.precision_metrics DATA [--zoo zoo] [--models mosi-sentiment,food] [--out FILE]

DATA holds the data sets (mosi, food, flickr8k). Every model is exported by `wander export` in every precision, each in
a process of its own; the numbers are those of its parity report: the metrics of the unfolded model in eager torch
beside those of the graph, the decisions that agree, and what stayed in fp32. What the gate refuses is listed as such.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.results import circumstances, publish, table

DATA = {"mosi-sentiment": "mosi", "food": "food", "flickr8k-image-text": "flickr8k"}
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8-static")


def export(checkpoint: Path, out: Path, data: Path, precision: str) -> dict[str, Any]:
    """What `wander export` says, or why it refuses. Raises RuntimeError if it ends otherwise."""
    command = [
        sys.executable, "-m", "wander", "export", str(checkpoint), str(out), "--json", "--data", str(data),
        "--precision", precision,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        if not last.startswith("error: "):
            raise RuntimeError(f"{shlex.join(command)}: {done.stderr}")
        return {"refused": last.removeprefix("error: ").partition("; see ")[0]}
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def rows_of(name: str, precision: str, said: dict[str, Any]) -> dict[str, Any]:
    """The numbers of one export."""
    if "refused" in said:
        return {"model": name, "precision": precision, **said}
    report = said["parity"]
    return {
        "model": name,
        "precision": precision,
        "engine": report["checks"][0]["engine"],
        "metrics": report["metrics"],
        "agreement": min(check["agreement"] for check in report["checks"]),
        "max_rel": max(check["max_rel"] for check in report["checks"]),
        "units": sum(one["units"] for one in report.get("narrowed", {}).values()),
        "kept": {graph: one["kept"] for graph, one in report.get("narrowed", {}).items()},
        "bytes": said["bytes"],
        "seconds": said["seconds"],
    }


def main(
    data: Annotated[Path, typer.Argument(help="Folder of the data sets.")],
    zoo: Annotated[Path, typer.Option(help="Folder of the shipped checkpoints.")] = Path("zoo"),
    models: Annotated[str, typer.Option(help="Names, separated by commas.")] = ",".join(DATA),
    precisions: Annotated[str, typer.Option(help="Separated by commas.")] = ",".join(PRECISIONS),
    out: Annotated[Path | None, typer.Option(help="Also write FILE.md and FILE.json.")] = None,
) -> None:
    """Metrics of the shipped models in every precision."""
    about = circumstances("benchmarks.precision_metrics", ("torch", "onnxruntime", "openvino"))
    found = []
    for name in models.split(","):
        for precision in precisions.split(","):
            with tempfile.TemporaryDirectory() as scratch:
                said = export(zoo / name, Path(scratch) / name, data / DATA[name], precision)
            found.append(rows_of(name, precision, said))
            print(found[-1], file=sys.stderr)
    publish("The shipped models in every precision", about, [_table(found), *_refused(found)], {"rows": found}, out)


def _table(found: list[dict[str, Any]]) -> str:
    lines = []
    for row in found:
        if "refused" in row:
            continue
        metrics = "; ".join(
            f"{name} {was:.4f} to {both['exported'][name]:.4f}"
            for both in row["metrics"].values()
            for name, was in both["reference"].items()
        )
        kept = sum(map(len, row["kept"].values()))
        lines.append(
            [
                f"{row['model']}, {row['precision']}",
                metrics or "of both towers together: see `wander evaluate`",
                row["engine"],
                f"{row['agreement']:.2%}",
                f"{row['max_rel']:.1e}",
                f"{kept} of {row['units']}" if row["units"] else "-",
                f"{row['bytes'] / 1e6:.2f}",
            ]
        )
    columns = [
        "model, precision",
        "metric, torch to graph",
        "engine",
        "agreement",
        "max relative error",
        "kept in fp32",
        "MB",
    ]
    return table(columns, lines, 3)


def _refused(found: list[dict[str, Any]]) -> list[str]:
    lines = [f"- {row['model']}, {row['precision']}: {row['refused']}" for row in found if "refused" in row]
    return ["Refused by the gate:\n\n" + "\n".join(lines)] if lines else []


if __name__ == "__main__":
    typer.run(main)
