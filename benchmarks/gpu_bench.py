"""What an NVIDIA GPU makes of full-size models with random weights. Needs no network, and no more than torch with CUDA.

    python -m benchmarks.gpu_bench [--models late_fusion,beit3_base] [--batches 1,8,32,128] [--out FILE]
    python -m benchmarks.gpu_bench --device cpu --quick                 # the same script without a GPU, small sizes

Every model and batch: eager, `torch.compile` and a CUDA graph in fp32, tf32, bf16 and fp16; ONNX Runtime's CUDA
provider and TensorRT on the exported fp32 graph, if they are there. What is absent or fails is listed with the reason.

- Time: medians; by CUDA events on a GPU, by the clock on a CPU. The engines' times include copies in and out.
- TFLOP/s: matrix FLOPs as torch counts them, over that time, beside the highest that one large product reaches here in
  the same type; weights GB/s: the bytes of the weights over that time, beside what a plain copy reaches.
- Parity: the largest difference from fp32 in eager torch, relative to max(1, largest value).
- Adapter cost: time of the adapted model over the frozen backbone alone, both eager.
- Sequence fusion in its three forms (the paper's Table 6): time, memory and FLOPs of the adapter alone.
"""

from __future__ import annotations

import gc
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._gpu import Ceilings, Clock, fusion_forms, gpu_circumstances
from benchmarks._gpu_models import GPU_MODELS, SMALL
from benchmarks.results import publish, table
from wander.backbones import Host
from wander.backbones.base import Tower

PRECISIONS: dict[str, tuple[torch.dtype, bool]] = {
    "fp32": (torch.float32, False),
    "tf32": (torch.float32, True),
    "bf16": (torch.bfloat16, False),
    "fp16": (torch.float16, False),
}
"""Type of the weights, and whether fp32 products may be rounded to tf32."""


@dataclass
class Row:
    """One measurement. `error` is None for the reference itself."""

    model: str
    tower: str
    batch: int
    how: str
    precision: str
    ms: float
    error: float | None
    tflops: float
    weights_gbs: float
    peak_memory_mb: float | None = None


@dataclass
class Report:
    """All that was measured, and all that was not, with the reason."""

    rows: list[Row] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    adapters: list[dict[str, Any]] = field(default_factory=list)
    fusion: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether fp32 products may be rounded."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def tensors(host: Host, tower: str, rows: int, device: str, dtype: torch.dtype) -> list[Tensor]:
    """Random inputs of a tower in its order, on the device; floats in the type of the weights."""
    arrays = host.random_inputs(tower, rows, np.random.default_rng(0))
    specs = host.towers("logits")[tower].signature.inputs
    found = [torch.from_numpy(arrays[spec.name]).to(device) for spec in specs]
    return [value.to(dtype) if value.is_floating_point() else value for value in found]


def first(answer: Tensor | tuple[Tensor, ...]) -> Tensor:
    return answer if isinstance(answer, Tensor) else answer[0]


def distance(answer: Tensor, reference: Tensor) -> float:
    a, b = answer.double().cpu(), reference.double().cpu()
    return float((a - b).abs().max() / max(1.0, float(b.abs().max())))


def measure(name: str, build: Callable[[bool], Host], batches: list[int], clock: Clock, report: Report) -> None:
    """Every way to run every tower of one model. What fails is noted, and the rest goes on."""
    device = clock.device
    for precision, (dtype, rounded) in PRECISIONS.items():
        host = build(True).to(device, dtype)
        size = sum(p.numel() * p.element_size() for p in host.parameters())
        for tower_name, tower in host.towers("logits").items():
            for batch in batches:
                label = f"{name}, {tower_name}, batch {batch}, {precision}"
                try:
                    inputs = tensors(host, tower_name, batch, device, dtype)
                    with torch.inference_mode(), tf32(rounded):
                        reference = _reference(build, tower_name, batch, device)
                        flops = _flops(tower, inputs)
                        for how, make in WAYS.items():
                            try:
                                call = make(tower, inputs, device)
                                answer = first(call())
                                ms = clock.median(call)
                            except Exception as error:  # noqa: BLE001  whatever a compiler or a driver raises
                                report.absent.append(f"{label}, {how}: {_line(error)}")
                                continue
                            exact = precision == "fp32" and how == "eager"
                            error = None if exact else distance(answer, reference)
                            speed = flops / ms / 1e9, size / ms / 1e6
                            memory = clock.peak_memory(call)
                            row = Row(name, tower_name, batch, how, precision, ms, error, *speed, memory)
                            report.rows.append(row)
                except (RuntimeError, MemoryError) as error:
                    report.absent.append(f"{label}: {_line(error)}")
        del host
        gc.collect()


def _reference(build: Callable[[bool], Host], tower: str, batch: int, device: str) -> Tensor:
    """fp32, eager, without tf32; computed anew, so that no second model stays in memory."""
    host = build(True).to(device)
    with tf32(False):
        return first(host.towers("logits")[tower].module(*tensors(host, tower, batch, device, torch.float32)))


def _flops(tower: Tower, inputs: list[Tensor]) -> int:
    counter = FlopCounterMode(display=False)
    with counter:
        tower.module(*inputs)
    return int(counter.get_total_flops())


def _eager(tower: Tower, inputs: list[Tensor], device: str) -> Callable[[], Any]:
    return lambda: tower.module(*inputs)


def _compiled(tower: Tower, inputs: list[Tensor], device: str) -> Callable[[], Any]:
    torch.compiler.reset()
    module = torch.compile(tower.module, dynamic=False)
    return lambda: module(*inputs)


def _graphed(tower: Tower, inputs: list[Tensor], device: str) -> Callable[[], Any]:
    if device != "cuda":
        raise RuntimeError("CUDA graphs need a GPU")
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            tower.module(*inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = tower.module(*inputs)

    def replay() -> Any:
        graph.replay()
        return answer

    return replay


WAYS: dict[str, Callable[[Tower, list[Tensor], str], Callable[[], Any]]] = {
    "eager": _eager,
    "compile": _compiled,
    "CUDA graph": _graphed,
}


def measure_engines(
    name: str, build: Callable[[bool], Host], batches: list[int], clock: Clock, report: Report, wanted: list[str]
) -> None:
    """ONNX Runtime and TensorRT on the traced fp32 graph, parity against eager torch."""
    missing = [package for package in ("onnx", "onnxscript") if importlib.util.find_spec(package) is None]
    if missing:
        report.absent.append(
            f"{name}, engines: {', '.join(missing)} is not installed, so that no graph can be exported"
        )
        return
    from export.trace import trace
    from wander.engines import EngineOptions, engines

    usable = []
    for engine in wanted:
        if reason := engines.get(engine).unavailable():
            report.absent.append(f"{name}, {engine}: {reason}")
        else:
            usable.append(engine)
    if not usable:
        return
    with tempfile.TemporaryDirectory() as scratch:
        host = build(True)
        for tower_name, tower in host.towers("logits").items():
            arrays = {b: host.random_inputs(tower_name, b, np.random.default_rng(0)) for b in batches}
            flops = _flops(tower, tensors(host, tower_name, 1, "cpu", torch.float32))
            size = sum(p.numel() * 4 for p in host.parameters())
            expected = {}
            with torch.inference_mode():
                for b in batches:
                    expected[b] = first(tower.module(*tensors(host, tower_name, b, "cpu", torch.float32)))
            path = Path(scratch) / f"{tower_name}.onnx"
            trace(build(True), tower_name, "logits", path)
            for engine in usable:
                try:
                    options = EngineOptions(max_batch_size=max(batches))
                    with engines.get(engine).open(path, tower.signature, options) as session:
                        for b in batches:
                            answer = session.run(arrays[b])[tower.signature.outputs[0].name]
                            ms = clock.median(partial(session.run, arrays[b]))
                            error = distance(torch.from_numpy(answer), expected[b])
                            speed = b * flops / ms / 1e9, size / ms / 1e6
                            report.rows.append(Row(name, tower_name, b, engine, "fp32", ms, error, *speed))
                except Exception as error:  # noqa: BLE001
                    report.absent.append(f"{name}, {tower_name}, {engine}: {_line(error)}")


def measure_adapter(name: str, build: Callable[[bool], Host], batches: list[int], clock: Clock, report: Report) -> None:
    """Adapted over plain, in turns, eager, fp32 as the device computes it."""
    adapted, plain = build(True).to(clock.device), build(False).to(clock.device)
    for tower in adapted.towers("logits"):
        for batch in batches:
            times = []
            with torch.inference_mode():
                for host in (adapted, plain):
                    inputs = tensors(host, tower, batch, clock.device, torch.float32)
                    times.append(clock.median(partial(host.towers("logits")[tower].module, *inputs)))
            ms, alone = times
            report.adapters.append(
                {"model": name, "tower": tower, "batch": batch, "ms": ms, "plain_ms": alone, "ratio": ms / alone}
            )


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"


def main(
    models: Annotated[str, typer.Option(help="Names, separated by commas.")] = ",".join(GPU_MODELS),
    batches: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1,8,32,128",
    device: Annotated[str, typer.Option(help="cuda, or cpu to prove the script itself.")] = "cuda",
    engines: Annotated[str, typer.Option(help="Engines beside torch, separated by commas.")] = "ort_cuda,tensorrt",
    rounds: Annotated[int, typer.Option(help="Timed calls of every way, at most.")] = 50,
    quick: Annotated[bool, typer.Option("--quick", help="The families' smallest models, batches 1 and 2.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write FILE.md and FILE.json.")] = None,
) -> None:
    """Full-size models on a GPU."""
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here (see: nvidia-smi); --device cpu --quick runs the script without one")
    about = gpu_circumstances("benchmarks.gpu_bench", device)
    clock, report = Clock(device, 3 if quick else rounds), Report()
    sizes = [1, 2] if quick else [int(size) for size in batches.split(",")]
    types = {name: dtype for name, (dtype, _) in PRECISIONS.items()}
    found = Ceilings.measured(clock, types, tf32, 64 if quick or device == "cpu" else 8192)
    for name in models.split(","):
        build = (SMALL if quick else GPU_MODELS)[name]
        try:
            build(False)
        except ImportError as error:
            report.absent.append(f"{name}: {error.name} is not installed")
            continue
        measure(name, build, sizes, clock, report)
        measure_engines(name, build, sizes, clock, report, [e for e in engines.split(",") if e])
        measure_adapter(name, build, sizes, clock, report)
    report.fusion = fusion_forms(clock, quick)
    title = "Full-size models on a GPU" if device == "cuda" else "The GPU script, on a CPU: no measurement of a GPU"
    publish(title, about, _body(report, found), {"ceilings": asdict(found), **asdict(report)}, out)


def _body(report: Report, ceilings: Ceilings) -> list[str]:
    rows = [
        [
            f"{row.model}, {row.tower}, {row.batch}",
            row.how,
            row.precision,
            f"{row.ms:.3f}",
            f"{row.ms / row.batch:.3f}",
            f"{row.tflops:.2f}",
            f"{row.tflops / ceilings.tflops[row.precision]:.0%}",
            f"{row.weights_gbs:.0f}",
            "-" if row.peak_memory_mb is None else f"{row.peak_memory_mb:.0f}",
            "reference" if row.error is None else f"{row.error:.1e}",
        ]
        for row in report.rows
    ]
    columns = ["model, tower, batch", "how", "precision", "ms", "ms an item", "TFLOP/s", "of the roof", "weights GB/s"]
    costs = [
        [
            f"{one['model']}, {one['tower']}, {one['batch']}",
            *(f"{one[what]:.3f}" for what in ("ms", "plain_ms", "ratio")),
        ]
        for one in report.adapters
    ]
    forms = [
        [
            one["form"],
            f"{one['ms']:.3f}",
            "-" if one["memory_mb"] is None else f"{one['memory_mb']:.1f}",
            f"{one['flops']:,}",
        ]
        for one in report.fusion
    ]
    return [
        f"Roofs, measured: a plain copy {ceilings.copy_gbs:,.0f} GB/s, and products of",
        table(["precision", "TFLOP/s"], [[name, f"{value:.2f}"] for name, value in ceilings.tflops.items()]),
        table([*columns, "peak memory, MB", "error"], rows, 3),
        table(["adapter cost: model, tower, batch", "ms", "backbone alone, ms", "ratio"], costs),
        table(["sequence fusion", "ms", "peak memory, MB", "FLOPs"], forms),
        "Not measured:",
        "\n".join(f"- {what}" for what in report.absent or ["nothing"]),
    ]


if __name__ == "__main__":
    typer.run(main)
