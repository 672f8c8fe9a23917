"""Clocks, roofs and circumstances of a device for `gpu_bench`; and the adapter's forms by themselves. torch alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.results import circumstances
from wander.adapters._fusion import FusionAdapter
from wander.adapters.sequence_fusion import SequenceFusion, SequenceFusionConfig
from wander.adapters.wander import Wander, WanderConfig

BUDGET_S = 3.0
"""No way to run a model is timed for longer, but three times at least."""


@dataclass(frozen=True)
class Clock:
    """Medians of single calls: by CUDA events on a GPU, else by the wall clock."""

    device: str
    rounds: int

    def median(self, call: Callable[[], object]) -> float:
        """Milliseconds. The first two calls are not counted."""
        for _ in range(2):
            call()
        self._wait()
        found: list[float] = []
        until = time.perf_counter() + BUDGET_S
        while len(found) < 3 or (len(found) < self.rounds and time.perf_counter() < until):
            found.append(self._once(call))
        return statistics.median(found)

    def _once(self, call: Callable[[], object]) -> float:
        if self.device != "cuda":
            started = time.perf_counter()
            call()
            return 1000 * (time.perf_counter() - started)
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        call()
        after.record()
        after.synchronize()
        return float(before.elapsed_time(after))

    def peak_memory(self, call: Callable[[], object]) -> float | None:
        """MB that torch allocates at most on the GPU during a call, weights included; None on a CPU."""
        if self.device != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats()
        call()
        self._wait()
        return torch.cuda.max_memory_allocated() / 1e6

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


@dataclass(frozen=True)
class Ceilings:
    """Measured on this device: TFLOP/s of one large product in every precision, GB/s of a copy (read and write)."""

    tflops: dict[str, float]
    copy_gbs: float

    @staticmethod
    def measured(
        clock: Clock, dtypes: Mapping[str, torch.dtype], tf32: Callable[[bool], AbstractContextManager[None]], side: int
    ) -> Ceilings:
        found = {}
        for name, dtype in dtypes.items():
            a, b = (torch.randn(side, side, device=clock.device, dtype=dtype) for _ in range(2))
            with tf32(name == "tf32"):
                found[name] = 2 * side**3 / clock.median(lambda a=a, b=b: a @ b) / 1e9  # type: ignore[misc]
        block = torch.empty(4 * side * side, device=clock.device, dtype=torch.float32)
        target = torch.empty_like(block)
        return Ceilings(found, 2 * block.nbytes / clock.median(lambda: target.copy_(block)) / 1e6)


def fusion_forms(clock: Clock, quick: bool) -> list[dict[str, Any]]:
    """SF-OP, SF-VF and SF with equal sizes: time, memory and FLOPs of one forward pass."""
    lengths, down, width, batch = ((4, 3, 5), 3, 8, 2) if quick else ((50, 50, 50), 16, 40, 1)
    dense = SequenceFusionConfig(embed_dim=width, lengths=lengths, down_dim=down, tokens=down)
    low = WanderConfig(embed_dim=width, lengths=lengths, down_dim=down, tokens=down, rank_h=8, rank_t=12)
    forms: dict[str, tuple[type[FusionAdapter], Any]] = {
        "SF-OP": (SequenceFusion, dense.model_copy(update={"form": "outer_product"})),
        "SF-VF": (SequenceFusion, dense),
        "SF": (Wander, low.model_copy(update={"form": "sum_of_products"})),
    }
    found = []
    for name, (kind, config) in forms.items():
        torch.manual_seed(0)
        module = kind.build(config).to(clock.device).eval()
        hidden = [torch.randn(batch, length, width, device=clock.device) for length in lengths]
        with torch.inference_mode():
            ms = clock.median(lambda m=module, h=hidden: m(h))  # type: ignore[misc]
            memory = clock.peak_memory(lambda m=module, h=hidden: m(h))  # type: ignore[misc]
        found.append({"form": name, "ms": ms, "memory_mb": memory, "flops": kind.flops(config) * batch})
    return found


def gpu_circumstances(module: str, device: str) -> dict[str, str]:
    """Those of every benchmark, and the GPU with its driver and CUDA."""
    about = circumstances(module, ("torch",))
    if device != "cuda":
        return {**about, "device": "cpu: this run proves the script, and says nothing of a GPU"}
    found = torch.cuda.get_device_properties(0)
    return {
        **about,
        "device": f"{found.name}, {found.total_memory / 1e9:.0f} GB, capability {found.major}.{found.minor}",
        "cuda": str(torch.version.cuda),
        "driver": _driver(),
    }


def _driver() -> str:
    """As the kernel says it, for no tool need be installed."""
    try:
        with open("/proc/driver/nvidia/version", encoding="utf-8") as file:
            return file.readline().strip()
    except OSError:
        return "unknown"
