import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.bench.compare import compare, read, unlike
from wander.errors import UsageError


def measured(
    throughput: float,
    p99: float,
    *,
    case: str = "a",
    amount: float = 8,
    kind: str = "closed",
    errors: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """A document with one point, whose windows vary by 2 %."""
    vary = np.random.default_rng(seed).normal(1, 0.02, 10)
    windows = [{"throughput": throughput * v, "p50_ms": p99 / 2 * v, "p99_ms": p99 * v} for v in vary.tolist()]
    load = {"kind": kind, "amount": amount, "label": f"{amount:g}"}
    point = {"case": case, "load": load, "batch": 1, "windows": windows, "requests": 1000, "errors": {"500": errors}}
    return {
        "schema": 1,
        "cases": [{"label": case, "input": "x", "request": "1 byte"}],
        "points": [point],
        "machine": {"cpu": "z", "cores": "2", "python": "3"},
        "method": {"window_s": 1, "generators": 1},
    }


def verdicts(a: dict[str, Any], b: dict[str, Any], tolerance: float = 0.05) -> dict[str, str]:
    return {d.quantity: d.verdict for d in compare(a, b, tolerance)}


def test_noise_is_noise() -> None:
    found = verdicts(measured(1000, 10), measured(1000, 10, seed=1))
    assert found == {"throughput": "noise", "p50_ms": "noise", "p99_ms": "noise"}


def test_slower_is_worse_and_faster_is_better() -> None:
    a, b = measured(1000, 10), measured(1300, 7, seed=1, case="another name")
    assert set(verdicts(a, b).values()) == {"better"}
    assert set(verdicts(b, a).values()) == {"worse"}


def test_a_difference_below_the_tolerance_is_noise() -> None:
    a, b = measured(1000, 10), measured(1000, 11)  # the same windows but for the tail, so that the bootstrap is sure
    assert verdicts(a, b, 0.05)["p99_ms"] == "worse"
    assert verdicts(a, b, 0.15)["p99_ms"] == "noise"


def test_in_an_open_loop_throughput_is_no_result() -> None:
    assert "throughput" not in verdicts(measured(500, 10, kind="open"), measured(500, 10, kind="open"))


def test_errors_are_worse_however_fast() -> None:
    assert verdicts(measured(1000, 10), measured(2000, 5, errors=30, seed=1))["errors"] == "worse"


def test_nothing_in_common_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="no point in common"):
        compare(measured(1, 1, amount=8), measured(1, 1, amount=9), 0.05)


def test_what_else_differs_is_named() -> None:
    other = measured(1, 1)
    other["machine"]["cpu"], other["cases"][0]["input"] = "y", "another"
    assert unlike(measured(1, 1), other) == ["cpu", "input"]


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"schema": 99, "points": []})])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UsageError):
        read(tmp_path / "x.json")
