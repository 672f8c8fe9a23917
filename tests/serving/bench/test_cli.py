"""`wander bench` as a person calls it, against real servers and bundles."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.bench import server_side
from serving.bench.targets import Wanted, resolve
from serving.settings import Settings
from tests.serving.building import KEY, KEYS, Running, running
from wander.__main__ import main
from wander.errors import UsageError

Run = Callable[..., tuple[int, Any, str]]
QUICK = ("--window-s", "0.2", "--warmup-s", "0.2", "--min-windows", "3", "--max-windows", "3")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Gives the exit code, what `--json` printed (or the text), and the lines of stderr."""
    monkeypatch.delenv("WANDER_KEY", raising=False)

    def started(*arguments: object) -> tuple[int, Any, str]:
        with pytest.raises(SystemExit) as ended:
            main(["bench", *map(str, arguments)])
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), json.loads(out) if "--json" in arguments and out else out, err

    return started


@pytest.fixture
def url(server: Running) -> str:
    return str(server.client.base_url).rstrip("/")


def test_our_protocol_is_measured_with_the_models_own_example(run: Run, url: str, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.csv", "a.png", "a.html")]
    code, said, err = run(
        url, "--model", "mosi", "--concurrency", "1,4", "--rate", "50", "--json", *QUICK,
        "--csv", files[0], "--report", files[1], "--report", files[2],
    )  # fmt: skip
    assert code == 0, err
    assert err == ""  # no terminal, no progress
    (case,) = said["cases"]
    assert case["how"] == "POST /v1/sentiment"
    assert case["input"] == "the example of the OpenAPI document"
    assert [point["load"]["label"] for point in said["points"]] == ["1 at once", "4 at once", "50/s"]
    for point in said["points"]:
        latency, server = point["latency_ms"], point["server"]
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p95"] <= latency["p99"] <= latency["p99.9"]
        assert point["errors"] == {}
        assert point["requests"] > 0
        # What the server says of itself is part of what its client sees.
        assert sum(server["stages_ms"][stage] for stage in server_side.STAGES) < latency["mean"]
        assert server["batch_rows"] >= 1
        assert server["memory_bytes"] > 1e7
    with files[0].open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["load"] for row in rows] == ["closed", "closed", "open"]
    assert float(rows[0]["p99_ms"]) == said["points"][0]["latency_ms"]["p99"]
    assert files[1].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    page = files[2].read_text(encoding="utf-8")
    assert "http" not in page.replace(url, "").replace("OpenAPI", "").split("<style>")[1].split("</style>")[0]
    assert 'src="data:image/png;base64,' in page


def test_any_kserve_server_is_measured_with_random_tensors(run: Run, url: str) -> None:
    code, said, err = run(f"{url}/v2/models/mosi", "--concurrency", "2", "--batch", "1,3", "--json", *QUICK)
    assert code == 0, err
    assert [case["how"] for case in said["cases"]] == ["POST /v2/models/mosi/infer"] * 2
    assert said["cases"][1]["input"].startswith("random (seed 0), binary tensors: text 3x")
    one, three = said["points"]
    assert one["errors"] == three["errors"] == {}
    assert three["rows_per_s"] == pytest.approx(3 * three["throughput"])
    assert {found["quantity"] for found in said["comparisons"]} == {"rows_per_s", "p99_ms"}
    assert {window["turn"] for window in one["windows"]} == {0}


def test_a_bundle_is_measured_in_process_and_text_says_what_was_done(run: Run, models: Path) -> None:
    code, said, err = run(models / "mosi", "--concurrency", "1", "--batch", "1,4", "--corrected", *QUICK)
    assert code == 0, err
    for expected in ("in process, without server or queue", "1 at once", "closed loop", "corrected", "times that of"):
        assert expected in said


def test_engines_take_turns(run: Run, models: Path) -> None:
    options = ("--window-s", "0.1", "--warmup-s", "0.1", "--min-windows", "6", "--max-windows", "6", "--within", "0")
    arguments = (models / "mosi", "--engine", "ort", "--engine", "fake", "--concurrency", "1", "--json", *options)
    _, said, _ = run(*arguments)
    assert len(said["points"]) == 2
    assert [{w["turn"] for w in point["windows"]} for point in said["points"]] == [{0, 1}] * 2


def test_the_highest_rate_that_meets_a_target_is_searched(run: Run, models: Path) -> None:
    code, said, err = run(models / "mosi", "--target-p99-ms", "500", "--json", *QUICK)
    (search,) = said["searches"]
    assert code == 0, err
    assert search["rate"] > 1
    assert len(search["tried"]) > 1
    assert said["points"][-1]["load"]["kind"] == "open"
    assert said["points"][-1]["latency_ms"]["p99"] <= 500


def test_a_target_that_nothing_meets_is_exit_1(run: Run, models: Path) -> None:
    code, said, _ = run(models / "mosi", "--target-p99-ms", "0.000001", "--json", *QUICK)
    assert code == 1
    assert said["searches"][0]["rate"] is None


def test_a_file_is_posted_and_refusals_are_counted(run: Run, url: str, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text("{")
    code, _, err = run(f"{url}/v1/sentiment", "--body", body, *QUICK)
    assert code == 1
    assert "answers 400 to what would be measured" in err


@pytest.fixture
def locked(models: Path) -> Iterator[str]:
    with running(Settings(models=models, keys=KEYS)) as started:
        yield str(started.client.base_url).rstrip("/")


def test_a_key_is_sent_and_shown_nowhere(run: Run, locked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = run(locked, "--model", "mosi", *QUICK)
    assert code == 1
    assert "--key" in err or "401" in err
    monkeypatch.setenv("WANDER_KEY", KEY)
    code, said, err = run(locked, "--model", "mosi", "--concurrency", "2", "--json", *QUICK)
    assert code == 0, err
    assert said["points"][0]["errors"] == {}
    assert KEY not in json.dumps(said)


def test_two_runs_are_compared(run: Run, models: Path, tmp_path: Path) -> None:
    names = []
    for name, rows in (("a", 1), ("b", 1)):
        _, said, _ = run(models / "mosi", "--concurrency", "1", "--batch", rows, "--json", *QUICK)
        names.append(tmp_path / f"{name}.json")
        names[-1].write_text(json.dumps(said))
    code, said, _ = run("compare", *names, "--tolerance", "100000", "--json")
    assert (code, said["worse"], said["differs_in"]) == (0, 0, [])
    slow = json.loads(names[1].read_text())
    for window in slow["points"][0]["windows"]:
        window["throughput"] /= 1000
    names[1].write_text(json.dumps(slow))
    code, text, _ = run("compare", *names)
    assert code == 1
    assert "B is worse" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["http://127.0.0.1:9"], "no server answers"),
        (["https://127.0.0.1:9"], "plain HTTP"),
        (["MODELS/mosi", "--concurrency", "1.5"], "whole number"),
        (["MODELS/mosi", "--rate", "fast"], "no number"),
        (["MODELS/mosi", "--batch", "5"], "verified up to batches of 4"),
        (["MODELS/mosi", "--engine", "abacus"], "none of the engines"),
        (["MODELS/mosi", "MODELS/mosi"], "name each once"),
        (["MODELS/mosi", "--report", "x.gif"], "ends in .html or .png"),
        (["MODELS/mosi", "--body", "x"], "is for a URL"),
        (["MODELS/none"], "no bundle"),
        (["URL"], "name one with --model"),
        (["URL/v2/models/none"], "no model 'none'"),
        (["URL/other"], "neither of /v1 nor of /v2"),
        (["MODELS/mosi", "--protocol", "v3"], "one of auto, v1, v2"),
        (["URL", "--header", "x"], "Name: value"),
    ],
)
def test_wrong_usage_is_one_line(run: Run, url: str, models: Path, arguments: list[str], said: str) -> None:
    code, out, err = run(*(part.replace("URL", url).replace("MODELS", str(models)) for part in arguments))
    assert code in (1, 2)
    assert out == ""
    assert said in " ".join(err.split())
    assert err.count("\n") == 1


@pytest.mark.parametrize(("package", "options"), [("hdrh", []), ("matplotlib", ["--report", "x.png"])])
def test_a_missing_package_is_one_line_that_installs_it(
    run: Run, models: Path, monkeypatch: pytest.MonkeyPatch, package: str, options: list[str]
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    code, _, err = run(models / "mosi", *options)
    assert code == 1
    assert err.endswith("run: pip install 'wander[bench]'\n")


def test_the_batch_of_a_fixed_shape_is_refused() -> None:
    from serving.bench.requests import _random

    with pytest.raises(UsageError, match="takes no batches of 2"):
        _random({"name": "x", "shape": [1, 3], "datatype": "FP32"}, 2, 16, __import__("numpy").random.default_rng(0))


def test_processes_that_listen_are_found(url: str) -> None:
    import os

    assert os.getpid() in server_side.listeners(url)
    assert server_side.listeners("http://192.0.2.1:80") == []


def test_a_server_without_metrics_says_that_they_are_absent(url: str) -> None:
    samples, why = server_side.scrape(url + "/v1", {})
    assert samples is None
    assert why == "absent: /metrics answers 404"


def test_labels_tell_cases_apart(models: Path) -> None:
    cases = resolve([str(models / "mosi"), str(models / "iemocap")], Wanted(batches=(1, 2)))
    assert len({case.label for case in cases}) == 4
