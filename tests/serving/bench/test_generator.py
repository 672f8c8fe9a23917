"""The load generator against servers whose delays and errors are planted."""

from __future__ import annotations

import base64
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from serving.bench._child import SECOND, arrivals
from serving.bench.driver import ENGINE, HTTP, Driver
from serving.bench.loads import Load, Point, Window
from serving.bench.measuring import Bench, Plan
from serving.bench.noise import Rule
from serving.bench.results import notes, point_json
from serving.bench.targets import Case
from wander.bundle import Bundle
from wander.errors import ServiceError

ROOT = Path(__file__).resolve().parents[3]
REQUEST = b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"


def config(port: int, **more: object) -> dict[str, object]:
    request = base64.b64encode(REQUEST).decode()
    return {"host": "127.0.0.1", "port": port, "request": request, "timeout_s": 5, "connections": 64, **more}


def case(port: int, **more: object) -> Case:
    return Case("x", "x", 1, HTTP, config(port, **more), {}, f"http://127.0.0.1:{port}")


def fixed(windows: int, **more: float) -> Plan:
    return Plan(Rule(0, 0, windows, windows), **{"window_s": 0.25, "warmup_s": 0.25, **more})  # type: ignore[arg-type]


@contextmanager
def stalling(stall_ms: float, every_s: float) -> Iterator[int]:
    command = [sys.executable, "-m", "benchmarks._stall_server", "--stall-ms", str(stall_ms), "--every-s", str(every_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


@contextmanager
def answering(statuses: list[int | None], keep: bool = True, clients: set[object] | None = None) -> Iterator[int]:
    """A server that gives these statuses in turn; None closes the connection without an answer.

    Args:
        clients: gets the address of every connection that asked.
    """
    turn, lock = iter(range(10**9)), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            if clients is not None:
                clients.add(self.client_address)
            self.rfile.read(2)
            with lock:
                status = statuses[next(turn) % len(statuses)]
            if status is None:
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("content-length", "0")
            if not keep:
                self.send_header("connection", "close")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def test_arrivals_are_poisson() -> None:
    moments = arrivals(1000, seed=1, start=0)
    gaps = np.diff([next(moments) for _ in range(20_000)]) / SECOND
    assert gaps.mean() == pytest.approx(1e-3, rel=0.05)
    assert gaps.std() == pytest.approx(1e-3, rel=0.05)  # of an exponential, deviation and mean are one


def test_a_stall_is_seen_by_the_open_loop_and_hidden_from_one_that_waits() -> None:
    stall = 250.0
    with stalling(stall, every_s=1) as port, Bench([case(port)], fixed(3, window_s=1)) as bench:
        (opened,) = bench.measure(Load("open", 400))
        (waiting,) = bench.measure(Load("closed", 1))
    seen = point_json(opened, bench.cases[0], bench.plan.rule)
    blind = point_json(waiting, bench.cases[0], bench.plan.rule)
    # A quarter of all requests are due during a stall, and those wait for half of it on the average.
    assert stall * 0.6 < seen["latency_ms"]["p99"] < stall * 2
    assert blind["latency_ms"]["p99"] < seen["latency_ms"]["p99"] / 3
    assert blind["corrected_ms"]["p95"] > 10 * blind["latency_ms"]["p95"]
    assert seen["throughput"] == pytest.approx(400, rel=0.2)
    assert not seen["errors"]


@pytest.mark.parametrize("load", [Load("closed", 3), Load("open", 300)], ids=lambda load: load.kind)
def test_connections_are_kept(load: Load) -> None:
    clients: set[object] = set()
    with answering([200], clients=clients) as port, Driver(HTTP, config(port, connections=8)) as driver:
        driver.start(load, 0.3, seed=1)
        window = driver.window()
        driver.stop()
    assert len(window.latencies) > 30
    assert len(clients) == 3 if load.kind == "closed" else len(clients) <= 8


def test_errors_are_counted_by_status_and_are_in_no_latency() -> None:
    with answering([200, 503, 429, 200]) as port, Bench([case(port)], fixed(2)) as bench:
        (point,) = bench.measure(Load("closed", 2))
    statuses = point.statuses
    assert set(statuses) == {"200", "429", "503"}
    assert len(point.latencies) == statuses["200"]
    assert len(point.failures) == statuses["503"] + statuses["429"]
    assert point_json(point, bench.cases[0], bench.plan.rule)["errors_ms"]["p50"] > 0
    assert statuses["200"] == pytest.approx(2 * statuses["503"], rel=0.2, abs=4)
    assert point.errors == statuses["429"] + statuses["503"]


def test_connections_that_break_are_counted_and_replaced() -> None:
    with answering([200, None]) as port, Bench([case(port)], fixed(2)) as bench:
        (point,) = bench.measure(Load("closed", 2))
        (opened,) = bench.measure(Load("open", 50))
    for one in (point, opened):
        assert set(one.statuses) == {"200", "connection lost"}
        assert one.statuses["200"] > 3


def test_a_server_that_closes_after_every_answer_is_measured() -> None:
    with answering([200], keep=False) as port, Bench([case(port)], fixed(2)) as bench:
        (point,) = bench.measure(Load("closed", 2))
    assert set(point.statuses) == {"200"}
    assert len(point.latencies) > 3


def test_a_server_that_goes_away_leaves_errors_and_no_latencies() -> None:
    with answering([200]) as port:
        pass
    with Bench([case(port)], fixed(2)) as bench:
        (point,) = bench.measure(Load("closed", 3))
    assert not len(point.latencies)
    assert set(point.statuses) == {"no connection"}
    said = point_json(point, bench.cases[0], bench.plan.rule)
    assert said["latency_ms"]["p99"] is None
    assert "nothing was answered with success" in said["notes"]


def test_what_is_not_answered_in_time_has_failed() -> None:
    with stalling(30_000, every_s=0.2) as port, Driver(HTTP, config(port, timeout_s=0.3)) as driver:
        driver.start(Load("closed", 2), 0.5, 0)
        seen = driver.window().statuses + driver.window().statuses + driver.window().statuses
        seen += driver.stop().statuses
    assert seen["timeout"] >= 2


def test_more_than_the_server_can_is_said_to_be_more() -> None:
    # It answers for a tenth of the time: what is due meanwhile piles up, and is not forgotten.
    with stalling(180, every_s=0.2) as port, Bench([case(port, connections=2)], fixed(3)) as bench:
        (point,) = bench.measure(Load("open", 30_000))
    assert point.unsent > 0
    assert any("did not keep up" in note for note in notes(point_json(point, bench.cases[0], bench.plan.rule)))


def test_generators_share_a_load() -> None:
    with answering([200]) as port, Bench([case(port)], Plan(Rule(0, 0, 2, 2), 0.3, 0.3, generators=2)) as bench:
        (point,) = bench.measure(Load("open", 100))
        (closed,) = bench.measure(Load("closed", 3))
        (single,) = bench.measure(Load("closed", 1))
    assert point.generators == 2
    assert point.throughput == pytest.approx(100, rel=0.5)
    assert min(len(closed.latencies), len(single.latencies)) > 3


def test_a_generator_that_ends_is_an_error() -> None:
    with Driver(HTTP, config(1)) as driver:
        driver.start(Load("closed", 1), 0.2, 0)
        driver._children[0].process.kill()
        driver._children[0].process.wait()
        with pytest.raises(ServiceError, match="ended"):
            driver.stop()


def test_an_engine_is_measured_in_process(models: Path) -> None:
    bundle = Bundle.open(models / "mosi")
    settings = {
        "bundle": str(bundle.path),
        "graph": "model",
        "engine": "ort",
        "threads": 1,
        "batch": 2,
        "connections": 8,
    }
    engine = Case("e", "e", 2, ENGINE, settings, {})
    with Bench([engine], fixed(2)) as bench:
        (closed,) = bench.measure(Load("closed", 2))
        (opened,) = bench.measure(Load("open", 50))
    assert "CPUExecutionProvider" in engine.says["engine"]
    for point in (closed, opened):
        assert set(point.statuses) == {"200"}
        assert point.server.stages_ms is not None
        assert 0 < point.server.stages_ms["inference"] <= point.mean_ms * 1.01  # type: ignore[operator]
        assert point.server.batch_rows == 2
        assert point.server.memory_bytes is not None
    assert opened.throughput == pytest.approx(50, rel=0.5)


def test_an_engine_that_keeps_up_leaves_nothing_unsent_and_one_that_does_not_says_so(models: Path) -> None:
    bundle = Bundle.open(models / "mosi")
    settings = {"bundle": str(bundle.path), "graph": "model", "engine": "ort", "threads": 1, "batch": 1}
    engine = Case("e", "e", 1, ENGINE, {**settings, "connections": 2}, {})
    # What comes due while it stops was never asked for, and what waits for a thread then is still run.
    with Bench([engine], Plan(Rule(0, 0, 2, 2), 0.1, 0.1)) as bench:
        (full,) = bench.measure(Load("closed", 2))
        kept = [bench.measure(Load("open", full.throughput / 2)) for _ in range(10)]
        (beyond,) = bench.measure(Load("open", full.throughput * 20))
    assert [point.unsent for (point,) in kept] == [0] * 10
    assert beyond.unsent > 0


def window(latencies: list[int], late: list[int] = [], **more: int) -> Window:  # noqa: B006  it is only read
    return Window(
        1.0, np.array(latencies, np.int64), Counter({"200": len(latencies)}), np.array(late, np.int64), **more
    )


def test_a_generator_that_was_late_or_busy_says_so() -> None:
    late = Point("x", Load("open", 10), windows=[(0, window([5_000_000] * 10, [3_000_000] * 10))])
    said = point_json(late, case(1), Rule())
    assert any("fell behind its schedule" in note for note in said["notes"])
    busy = Point("x", Load("closed", 1), windows=[(0, window([5_000_000] * 10))])
    busy.windows[0][1].cpu_s = 0.95
    assert any("may be what limits" in note for note in point_json(busy, case(1), Rule())["notes"])
