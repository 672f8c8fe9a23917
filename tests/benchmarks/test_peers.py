"""The comparison with other servers, without their environments: bodies, ratios, clean-up, and our own server."""

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import typer

from benchmarks.peers import ceiling, load, measuring, report, servers
from benchmarks.peers.__main__ import CACHE, choose
from benchmarks.peers.bodies import JSON_LENGTH, LISTS, NATIVE, RAW, V2_BINARY, V2_JSON, Form, Request
from benchmarks.peers.environments import EnvironmentFailed
from benchmarks.peers.measuring import Case, Ceiling, Plan, cases
from benchmarks.peers.models import Graph, graph
from benchmarks.peers.servers import BY_NAME, GENERAL, OURS, SPREAD, ServerFailed, free_port, marked, running
from serving.protocols._tensors import decode
from serving.settings import Settings
from tests.benchmarks.running import quick
from tests.serving import building

SAID = """Running 1s test @ http://127.0.0.1:1
  1 threads and 32 connections
Requests/sec:   2000.00
summary {"requests": 1000, "microseconds": 500000, "p50": 1500, "p90": 2000, "p99": 3500, "max": 9000, "status": 2, "sockets": 1, "timeouts": 0}
"""  # noqa: E501


@pytest.fixture
def tiny(tmp_path: Path) -> Graph:
    building.publish(tmp_path / "small" / "small")
    return graph(tmp_path / "small", "small")


def row(graph: Graph) -> dict[str, Any]:
    return {name: value[0] for name, value in graph.rows(1, 0).items()}


@pytest.mark.parametrize("form", [V2_BINARY, V2_JSON])
def test_the_v2_forms_are_what_the_protocol_says(tiny: Graph, form: Form) -> None:
    request = form.request(tiny, row(tiny))
    length = request.headers.get(JSON_LENGTH)
    decoded = decode(request.body, None if length is None else int(length))
    assert request.path == "/v2/models/small/infer"
    for name, value in row(tiny).items():
        np.testing.assert_array_equal(decoded.inputs[name], value[None])


def test_raw_bodies_hold_the_inputs_in_the_order_of_the_graph(tiny: Graph) -> None:
    body = RAW.request(tiny, row(tiny)).body
    expected = np.concatenate([row(tiny)[spec.name].ravel() for spec in tiny.signature.inputs])
    np.testing.assert_array_equal(np.frombuffer(body, np.float32), expected)


@pytest.mark.parametrize("form", [LISTS, NATIVE])
def test_lists_hold_every_digit(tiny: Graph, form: Form) -> None:
    content = orjson.loads(form.request(tiny, row(tiny)).body)
    for name, value in row(tiny).items():
        np.testing.assert_array_equal(np.array(content[name], np.float32), value)


@pytest.mark.parametrize("kind", ["binary", "json", "v1 json"])
def test_our_answers_pass_the_check_and_others_do_not(tiny: Graph, kind: str) -> None:
    inputs = tiny.rows(3, 0)
    expected = ceiling.outputs(tiny.path, inputs)
    form = servers.OUR_FORMS[kind]
    requests = [form.request(tiny, {name: value[i] for name, value in inputs.items()}) for i in range(3)]
    with building.running(Settings(models=tiny.folder)) as server:
        port = server.address[1]
        measuring.check(tiny, form, port, requests, expected)
        with pytest.raises(ServerFailed, match="answers wrongly: off by"):
            measuring.check(tiny, form, port, requests, expected + 0.01)
        with pytest.raises(ServerFailed, match="shape"):
            measuring.check(tiny, form, port, requests, expected[:, :0])
        with pytest.raises(ServerFailed, match="answers 4"):
            measuring.check(tiny, form, port, [replace(requests[0], body=b"{")], expected)


def test_what_wrk_says_is_read() -> None:
    assert load.read(SAID) == load.Load(2000, 1.5, 2.0, 3.5, 9.0, failed=3)
    with pytest.raises(load.LoadFailed, match="no summary"):
        load.read("Running")


def loads(rate: float, p50: float = 10, p99: float = 20) -> dict[int, list[load.Load]]:
    """Of two turns, the second twice as fast; as many requests at every number of connections."""
    two = [load.Load(rate * f, p50, p50, p99, p99, 0) for f in (1, 2)]
    return {1: two, 32: two, 128: two}


def found(goals: list[report.Goal]) -> Mapping[str, tuple[float | None, bool | None]]:
    return {goal.says: (goal.found.median if goal.found else None, goal.met) for goal in goals}


def test_goals_are_ratios_within_a_turn_to_the_best_form_of_the_best_peer() -> None:
    own = [
        Case(BY_NAME[OURS], "binary", loads(2500, p50=1.0, p99=10)),
        Case(BY_NAME[f"{OURS} --workers 2"], "binary", loads(2900)),
        Case(BY_NAME["FastAPI"], "binary", loads(2000, p99=12)),
        Case(BY_NAME["LitServe"], "binary", loads(900)),
        Case(BY_NAME["LitServe"], "json", loads(1000, p99=8)),
        Case(BY_NAME["MLServer"], "json", error="ended"),
    ]
    one, two = ceiling.Arrangement(1, 1, 2), ceiling.Arrangement(2, 1, 1)
    top = Ceiling({(one, 1): [1000, 1000], (two, 4): [2500, 5000]}, {1: [0.8, 0.9], 2: [1.5, 1.5]})
    assert found(report.goals(own, top, large=False)) == {
        "one process: requests/s over LitServe (json)": (2.5, True),
        "--workers 2: requests/s over LitServe (json)": (pytest.approx(2.9), False),
        "one process: requests/s over FastAPI (binary)": (1.25, False),
        "one process: requests/s over the in-process ceiling": (1.0, True),
        "--workers 2: requests/s over the in-process ceiling": (pytest.approx(1.16), True),
        "one process: p99 over the lowest of all peers, LitServe (json)": (1.25, False),
        "one process, 1 connection: ms that the server adds to the in-process p50": (pytest.approx(0.15), True),
    }
    text = report.load_table(own, [1, 32])
    assert "| LitServe, json | 1,500 (10 / 8) | 1,500 (10 / 8) |" in text
    assert "| MLServer, json | - | - |" in text
    assert "- MLServer, json: ended" in report.notes(own)


def test_what_was_not_measured_is_no_goal_met_or_missed() -> None:
    own = [Case(BY_NAME[OURS], "binary", error="ended"), Case(BY_NAME["Ray Serve"], "json", loads(100))]
    top = Ceiling({(ceiling.Arrangement(1, 1, 1), 1): [1, 1]}, {1: [1, 1]})
    goals = report.goals(own, top, large=False)
    assert {goal.met for goal in goals} == {None}
    assert "not measured" in report.goal_table(goals)
    assert json.dumps([goal.to_json() for goal in goals])


def test_of_the_large_model_the_share_of_the_ceiling_counts() -> None:
    own = [Case(BY_NAME[OURS], "binary", loads(96))]
    top = Ceiling({(ceiling.Arrangement(1, 1, 2), 8): [100, 200]}, {1: [1, 1]})
    one, spread = report.goals(own, top, large=True)
    assert one.met
    assert one.found is not None
    assert one.found.median == pytest.approx(0.96)
    assert spread.met is None


def test_instances_are_named_for_the_large_model_alone() -> None:
    servers = [BY_NAME[OURS], BY_NAME[SPREAD]]
    assert {case.server.name for case in cases(servers, large=True)} == {OURS, SPREAD}
    assert {case.server.name for case in cases(servers, large=False)} == {OURS}


def test_the_ceiling_is_measured_in_every_arrangement(tiny: Graph) -> None:
    assert ceiling.arrangements(1) == [ceiling.Arrangement(1, 1, 1)]
    for arrangement in ceiling.arrangements(2):
        rates = ceiling.items_per_second(tiny.path, tiny.rows(3, 0), [1, 4], arrangement, 0.02)
        assert rates.keys() == {1, 4}
        assert min(rates.values()) > 0
    assert ceiling.alone_ms(tiny.path, tiny.rows(1, 0), 1, 0.02) > 0


STUBBORN = """
import http.server, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"],
                 start_new_session=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_nothing_of_a_server_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "STOP_S", 0.5)
    port = free_port()
    with running([sys.executable, "-c", STUBBORN, str(port)], port, Request("/", {}, b"x"), tmp_path / "log") as mark:
        assert len(marked(mark)) == 2
    assert marked(mark) == []


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('ImportError: no torch'); print('bye'); raise SystemExit(3)"]
    with (
        pytest.raises(ServerFailed, match="exit code 3: ImportError: no torch"),
        running(command, free_port(), Request("/", {}, b""), tmp_path / "log"),
    ):
        pass


def test_a_peer_that_fails_is_kept_with_its_reason(tiny: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, folder: Path) -> Path:
        raise EnvironmentFailed(f"no {name} today")

    monkeypatch.setattr(servers, "environment", broken)
    own, kept = [Case(BY_NAME["BentoML"], "json")], []
    plan = Plan(1, 0.02, 0.02, (1,), Path("unused"), cores=1)
    measuring.measure(tiny, own, plan, lambda *what: kept.append(what))
    assert own[0].error == "no bentoml today"
    assert kept == [("turn 1", "BentoML, json", "failed: no bentoml today\n")]


def test_servers_are_chosen_by_name_or_part() -> None:
    assert [server.name for server in choose("wander")] == ["wander"]
    assert [server.name for server in choose("pytriton, workers")] == ["Triton (pytriton)", "wander --workers 2"]
    assert {server.name for server in choose("")} >= {OURS, "FastAPI", *GENERAL}
    with pytest.raises(typer.BadParameter, match="'torchserve' is no server"):
        choose("torchserve")


def test_every_peer_has_a_script_and_pins() -> None:
    for server in servers.SERVERS:
        if server.environment is not None:
            assert (servers.HERE / f"{server.environment}_server.py").exists()
            pins = (servers.HERE / f"{server.environment}.requirements.txt").read_text(encoding="utf-8")
            assert all("==" in line for line in pins.splitlines() if not line.startswith("#"))


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_our_server_is_measured(tiny: Graph, tmp_path: Path) -> None:
    options = ["--work", str(tmp_path), "--models", "small", "--servers", "wander", "--concurrency", "1,32"]
    model = quick("peers", tmp_path / "out.json", *options, "--no-plot")["models"]["small"]
    assert [(case["form"], case["error"]) for case in model["cases"]] == [
        ("binary", None),
        ("json", None),
        ("v1 json", None),
    ]
    for case in model["cases"]:
        for turns in case["loads"].values():
            (seen,) = turns
            assert seen["requests_per_s"] > 0
            assert 0 < seen["p50_ms"] <= seen["p99_ms"]
    raw = (tmp_path / "out.wrk.txt").read_text(encoding="utf-8")
    assert raw.count("Latency Distribution") == 6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["FastAPI", *GENERAL])
def test_a_peer_answers_right(name: str, tiny: Graph, tmp_path: Path) -> None:
    server = BY_NAME[name]
    if not (CACHE / str(server.environment) / "pins").exists():
        pytest.skip(f"the environment of {name} was not made; run: python -m benchmarks.peers --quick")
    inputs = tiny.rows(2, 0)
    expected = ceiling.outputs(tiny.path, inputs)
    for kind, form in server.forms.items():
        requests = [form.request(tiny, {name: value[i] for name, value in inputs.items()}) for i in range(2)]
        port = free_port()
        command = server.command(tiny, kind, port, 1, CACHE)
        with running(command, port, requests[0], tmp_path / "log"):
            measuring.check(tiny, form, port, requests, expected)
