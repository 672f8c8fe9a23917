"""The GPU script, whole, on a CPU with the smallest models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_bench
from benchmarks._gpu_models import SMALL
from tests.benchmarks.running import ROOT
from wander.backbones.base import Tower
from wander.engines import engines


def test_every_way_and_precision_is_measured_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for `torch.compile`, which takes minutes for all of them."""
    monkeypatch.setattr(gpu_bench, "WAYS", {how: way for how, way in gpu_bench.WAYS.items() if how != "compile"})
    gpu_bench.main(
        models="late_fusion,beit3_base", batches="", device="cpu", engines="ort,tensorrt", rounds=3, quick=True,
        out=tmp_path / "gpu.json",
    )  # fmt: skip
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    rows, absent = found["rows"], "\n".join(found["absent"])
    for model, towers in {"late_fusion": ["model"], "beit3_base": ["image", "text"]}.items():
        for tower in towers:
            for batch in (1, 2):
                for precision in gpu_bench.PRECISIONS:
                    for how in gpu_bench.WAYS:
                        measured = [
                            row for row in rows
                            if (row["model"], row["tower"], row["batch"]) == (model, tower, batch)
                            and (row["how"], row["precision"]) == (how, precision)
                        ]  # fmt: skip
                        assert measured or f"{model}, {tower}, batch {batch}, {precision}" in absent
                (eager,) = (
                    row for row in rows
                    if (row["model"], row["tower"], row["batch"], row["how"], row["precision"])
                    == (model, tower, batch, "eager", "fp32")
                )  # fmt: skip
                assert eager["ms"] > 0
                assert eager["tflops"] > 0
    assert all(row["error"] <= 1e-4 for row in rows if row["how"] == "ort")
    assert {row["how"] for row in rows} >= {"eager", "ort"}
    assert "CUDA graphs need a GPU" in absent
    if engines.get("tensorrt").unavailable():
        assert "late_fusion, tensorrt: tensorrt" in absent
    assert {one["form"] for one in found["fusion"]} == {"SF-OP", "SF-VF", "SF"}
    assert len(found["adapters"]) == 6
    assert "no measurement of a GPU" in (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert "says nothing of a GPU" in found["circumstances"]["device"]


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # of torch's own compiler
def test_compiled_modules_answer_alike() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()).eval()
    tower = Tower(module, SMALL["late_fusion"](True).towers("logits")["model"].signature)
    inputs = [torch.randn(5, 4)]
    with torch.inference_mode():
        assert gpu_bench.distance(gpu_bench.WAYS["compile"](tower, inputs, "cpu")(), module(*inputs)) < 1e-6


def test_torch_is_enough(tmp_path: Path) -> None:
    """With everything that a bare machine lacks made impossible to import."""
    script = (
        "import sys\n"
        "for name in ('onnx', 'onnxscript', 'onnxruntime', 'tensorrt', 'transformers', 'tokenizers', 'safetensors',\n"
        "             'sentencepiece', 'PIL', 'fastapi', 'openvino'): sys.modules[name] = None\n"
        "import importlib.util\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda n, *a: None if sys.modules.get(n, 0) is None else real(n, *a)\n"
        "from benchmarks import gpu_bench\n"
        "gpu_bench.WAYS = {'eager': gpu_bench.WAYS['eager']}\n"
        "gpu_bench.main(models='late_fusion,bert_vit', batches='', device='cpu', engines='ort_cuda', rounds=3,\n"
        "               quick=True, out=None)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "- bert_vit: " in done.stdout
    assert "is not installed" in done.stdout
    assert "late_fusion, engines: onnx, onnxscript is not installed" in done.stdout
    assert "| late_fusion, model, 1 | eager | fp32 |" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(SystemExit, match="nvidia-smi"):
        gpu_bench.main(models="late_fusion", batches="1", device="cuda", engines="", rounds=3, quick=True, out=None)
