"""Processors as Linux tells them."""

from __future__ import annotations

from wander.engines._cpuinfo import read_cpuinfo

X86 = """processor\t: 0
model name\t: AMD EPYC
flags\t\t: fpu avx2 avx512f avx_vnni avx512_bf16

processor\t: 1
model name\t: another
flags\t\t: fpu
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd sve i8mm bf16\n"


def test_cpuinfo_of_both_families() -> None:
    name, flags = read_cpuinfo(X86)
    assert name == "AMD EPYC"
    assert flags == {"fpu", "avx2", "avx512f", "avx_vnni", "avx512_bf16"}
    assert read_cpuinfo(ARM) == ("unknown", {"fp", "asimd", "sve", "i8mm", "bf16"})
