"""The two models that every server answers from: random weights from a seed, exported by `wander export`."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wander.bundle import Bundle
from wander.signature import Signature

SEED = 0
NAMES = ("small", "large")


@dataclass(frozen=True)
class Graph:
    """One graph of a bundle, as a client and the peers see it.

    Attributes:
        folder: the model repository that our server serves.
        name: of the graph on `/v2`.
        task: path of the task on `/v1`.
    """

    folder: Path
    name: str
    path: Path
    signature: Signature
    task: str

    def rows(self, rows: int, seed: int) -> dict[str, NDArray[Any]]:
        """Random inputs (rows, ..), float32."""
        random = np.random.default_rng(seed)
        sizes = {spec.name: [int(dim) for dim in spec.dims[1:]] for spec in self.signature.inputs}
        return {name: random.normal(size=(rows, *size)).astype(np.float32) for name, size in sizes.items()}


def graph(folder: Path, model: str) -> Graph:
    """The graph that is measured of `folder/model`: its only one, else that of images."""
    bundle = Bundle.open(folder / model)
    graphs = bundle.manifest.graphs
    which = "image" if "image" in graphs else next(iter(graphs))
    name = model if len(graphs) == 1 else f"{model}-{which}"
    task = bundle.manifest.task.replace("_", "-")
    return Graph(folder, name, bundle.graph_path(which), graphs[which].signature, task)


def build(model: str, folder: Path) -> Graph:
    """The model in a repository of its own, `folder/model`; exported unless it is there already."""
    checkpoint, folder = folder / "checkpoints" / model, folder / model
    if not (folder / model).exists():
        if not checkpoint.exists():
            _write_checkpoint(model, checkpoint)
        command = [sys.executable, "-m", "wander", "export", str(checkpoint), str(folder / model)]
        subprocess.run([*command, "--max-batch-size", "32", "--no-explain"], check=True, stdout=sys.stderr)
    return graph(folder, model)


def _write_checkpoint(model: str, out: Path) -> None:
    import torch

    torch.manual_seed(SEED)
    if model == "small":
        _small(out)
    else:
        _large(out)


def _small(out: Path) -> None:
    """The late-fusion host with Wander: 3 modalities of 50 x 8, E = 64, 4 heads, 2 layers an encoder; a score."""
    from benchmarks._models import ready
    from wander.adapters.wander import WanderConfig
    from wander.backbones.late_fusion import LateFusion, LateFusionConfig, LateFusionHead
    from wander.checkpoints.folder import Description, save

    config = LateFusionConfig(
        modalities=("text", "audio", "vision"),
        feature_dims=(8, 8, 8),
        lengths=(50, 50, 50),
        embed_dim=64,
        num_heads=4,
        encoder_layers=2,
    )
    adapter = WanderConfig(embed_dim=64, lengths=config.lengths, down_dim=16, tokens=16, rank_h=8, rank_t=8)
    host = ready(LateFusion.build(config, adapter, LateFusionHead(out_dim=1)))
    about = Description(task="sentiment", provenance={"weights": "random"})
    save(host, {"out_dim": 1}, about, out, "random")


def _large(out: Path) -> None:
    """BEiT-3 at the width of base (768) and 224 x 224, but 4 layers; extractors of 64, enhancer of 256."""
    from benchmarks._models import ready, write_checkpoint
    from wander.adapters.multiway import MultiWayConfig
    from wander.backbones.base import HeadConfig
    from wander.backbones.beit3 import PUBLISHED, BEiT3, BEiT3Config

    config = BEiT3Config.model_validate({**PUBLISHED["base"], "layers": 4, "vocab_size": 1000})
    adapter = MultiWayConfig(embed_dim=768, layers=4, extractor_width=64, enhancer_width=256, scalar=0.6)
    write_checkpoint(ready(BEiT3.build(config, adapter, HeadConfig())), out)
