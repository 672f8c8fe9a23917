"""What the operating system tells, and a machine on which it tells nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serving.doctor import machine
from tests.engines.test_cpuinfo import ARM, X86


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name, which a test fills."""
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    return program


def says(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("text", "instructions"),
    [(X86, ["AVX2", "AVX-512", "VNNI", "bf16"]), (ARM, ["bf16", "NEON", "SVE", "i8mm"]), ("", [])],
)
def test_instruction_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, instructions: list[str]) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    assert machine.processor()["instructions"] == instructions


def test_cores_are_those_it_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    found = machine.processor()
    assert (found["bound"], found["usable"]) == (1, 1)
    assert found["cores"] == os.cpu_count()


def test_a_kernel_that_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "nowhere")
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "nowhere")
    assert machine.processor()["name"] == "unknown"
    assert machine.memory_bytes() == {"total": 0, "available": 0}


def test_memory() -> None:
    found = machine.memory_bytes()
    assert 0 < found["available"] <= found["total"]


def test_cards_are_listed(nvidia_smi: Path) -> None:
    says(nvidia_smi, "echo 'NVIDIA A10, 580.1, 23028 MiB, 8.6'; echo 'NVIDIA A10, 580.1, 23028 MiB, 8.6'")
    cards, why = machine.gpus()
    assert len(cards) == 2
    assert why is None
    assert cards[0]["driver_version"] == "580.1"


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'driver mismatch'; exit 9", "nvidia-smi fails: driver mismatch"),
        ("exit 0", "nvidia-smi lists no card"),
        ("echo 'No devices were found'", "nvidia-smi lists no card"),
        ("sleep 60", "nvidia-smi does not answer"),
    ],
)
def test_a_driver_that_does_not_work(nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch, script: str, why: str) -> None:
    monkeypatch.setattr(machine, "PATIENCE_S", 0.5)
    says(nvidia_smi, script)
    cards, said = machine.gpus()
    assert cards == []
    assert said is not None
    assert said.startswith(why)


def test_no_driver(nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(nvidia_smi.parent))
    cards, why = machine.gpus()
    assert cards == []
    assert why is not None
    assert "is not here" in why
