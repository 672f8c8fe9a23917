"""Peaks of tiny products: that every library is asked, and gives numbers."""

from pathlib import Path

from tests.benchmarks.running import quick


def test_every_library_has_its_peak_in_every_precision_it_has(tmp_path: Path) -> None:
    found = quick("roofline", tmp_path / "roof.json")["peaks"]
    pairs = {(peak["precision"], peak["library"]) for peak in found}
    assert {("fp32", "numpy (OpenBLAS)"), ("fp32", "torch (oneDNN)"), ("fp32", "ort"), ("int8", "ort")} <= pairs
    assert all(peak["gflops"] > 0 for peak in found)
    assert len(pairs) == len(found)
