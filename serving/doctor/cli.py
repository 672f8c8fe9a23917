"""`wander doctor`. What is heavy is imported when it runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from wander.console import print_fields, print_json, print_table, stderr, stdout


def doctor(
    models: Annotated[Path | None, typer.Argument(help="Folder of models to test with; else one is made.")] = None,
    engine: Annotated[str, typer.Option(help="What runs the graphs of the self-test.")] = "ort",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Tell what this machine can run and what it lacks, and test that it serves. Exits 1 if the test fails."""
    from serving.doctor.selftest import self_test, speeds
    from wander.errors import WanderError

    report = survey()
    if not json:
        show(report)
    findings = []
    for finding in self_test(models, engine):
        findings.append(finding)
        if not json:
            stdout.print(f"{'ok    ' if finding.passed else 'FAILED'}  {finding.name}: {finding.detail}", markup=False)
    report["self_test"] = [asdict(finding) for finding in findings]
    report["passed"] = passed = all(finding.passed for finding in findings)
    try:
        report["gflops"] = speeds(engine)
    except WanderError as error:
        report["gflops"] = {}
        stderr.print(f"the speed of {engine} cannot be measured: {error}", markup=False)
    if json:
        print_json(report)
    else:
        for threads, value in report["gflops"].items():
            stdout.print(f"speed   {value:.0f} GFLOP/s, float32, threads: {threads}", markup=False)
    if not passed:
        raise typer.Exit(1)


def survey() -> dict[str, Any]:
    """All but the self-test, as `--json` prints it."""
    from serving.doctor import machine, software
    from wander import __version__

    cards, why = machine.gpus()
    libraries, providers, engines = software.libraries(), software.providers(), software.engine_states()
    extras = software.extras()
    missing = [state.problem for state in extras if state.problem and state.name != "gpu"]
    if cards and not any(state.name == "CUDAExecutionProvider" and state.problem is None for state in providers):
        missing.append(f"a GPU is here and ONNX Runtime does not compute on it; run: {software.FOR_A_GPU}")
    return {
        "wander": __version__,
        "processor": machine.processor(),
        "memory": machine.memory_bytes(),
        "gpus": cards,
        "no_gpu": why,
        "engines": [state.to_json() for state in engines],
        "providers": [state.to_json() for state in providers],
        "libraries": [state.to_json() for state in libraries],
        "extras": [state.to_json() for state in extras],
        "missing": missing,
    }


def show(report: dict[str, Any]) -> None:
    """The survey for a person."""
    processor, gigabytes = report["processor"], {name: size / 1e9 for name, size in report["memory"].items()}
    cores = f"{processor['usable']} usable of {processor['cores']} (bound to {processor['bound']})"
    print_fields(
        {
            "wander": report["wander"],
            "processor": processor["name"],
            "instructions": ", ".join(processor["instructions"]) or "none that matter here",
            "cores": cores,
            "memory": f"{gigabytes['available']:.1f} of {gigabytes['total']:.1f} GB available",
            "gpu": "; ".join(", ".join(card.values()) for card in report["gpus"]) or f"none: {report['no_gpu']}",
        }
    )
    rows = [
        (kind, state["name"], state["version"] or "", state["problem"] or "works")
        for kind in ("engines", "providers", "libraries")
        for state in report[kind]
    ]
    print_table(("", "name", "version", "state"), rows)
    for line in report["missing"]:
        stdout.print(f"lacks   {line}", markup=False)
