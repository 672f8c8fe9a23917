"""What the servers of this folder share: options, the graph in ONNX Runtime, and how bodies become rows.

Runs in the environments of the peers: knows numpy and ONNX Runtime, and nothing of this project.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnxruntime

MAX_BATCH_SIZE = 32


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", default="model")
    parser.add_argument("--graph", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--form", choices=["binary", "json"], required=True)
    return parser.parse_args()


class Model:
    """The graph on the CPU with so many threads, all inputs and its one output float32."""

    def __init__(self, graph: Path, threads: int) -> None:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])
        self.inputs = {spec.name: tuple(spec.shape[1:]) for spec in self.session.get_inputs()}
        self.output = self.session.get_outputs()[0].name
        self.width = self.session.get_outputs()[0].shape[1]

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Arrays (rows, ..) by their names to the output (rows, width)."""
        return self.session.run([self.output], inputs)[0]

    def run_rows(self, rows: list[dict[str, np.ndarray]]) -> list[np.ndarray]:
        """Rows (..) as they came, in one batch; an output (width,) each."""
        return list(self.run({name: np.stack([row[name] for row in rows]) for name in self.inputs}))

    def row_of_bytes(self, body: bytes) -> dict[str, np.ndarray]:
        """The inputs of one row, one after another."""
        row, at = {}, 0
        for name, shape in self.inputs.items():
            size = int(np.prod(shape))
            row[name] = np.frombuffer(body, np.float32, size, at).reshape(shape)
            at += 4 * size
        return row

    def row_of_lists(self, body: dict[str, list]) -> dict[str, np.ndarray]:
        """The inputs of one row as nested lists."""
        return {name: np.asarray(body[name], np.float32) for name in self.inputs}
