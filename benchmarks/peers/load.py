"""The load generator: wrk, closed loop, one thread, keep-alive; every connection posts the bodies in turn.

It shares the cores with the server that it asks.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.bodies import Request

TIMEOUT_S = 60
SCRIPT = """
local requests, turn = {}, 0
function init(arguments)
  for number = 1, COUNT do
    local file = io.open("FOLDER/" .. number, "rb")
    requests[number] = wrk.format("POST", "PATH", HEADERS, file:read("*a"))
    file:close()
  end
end
function request()
  turn = turn % COUNT + 1
  return requests[turn]
end
function done(summary, latency, requests)
  local failed = summary.errors
  io.write(string.format(
    'summary {"requests": %d, "microseconds": %d, "p50": %d, "p90": %d, "p99": %d, "max": %d, "status": %d, ' ..
    '"sockets": %d, "timeouts": %d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(90), latency:percentile(99),
    latency.max, failed.status, failed.connect + failed.read + failed.write, failed.timeout))
end
"""


class LoadFailed(Exception):
    """wrk is not there, or could not run."""


@dataclass(frozen=True)
class Load:
    """What one run of wrk saw. `failed` counts answers that are no 2xx, broken sockets and timeouts."""

    requests_per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    failed: int


def generator() -> str:
    """The path of wrk. Raises LoadFailed."""
    if (found := shutil.which("wrk")) is None:
        raise LoadFailed("wrk is not there; run: apt install wrk")
    return found


def prepare(requests: Sequence[Request], folder: Path) -> Path:
    """Writes bodies and script into an empty folder; returns the script. All requests have one path and one set of
    headers."""
    first = requests[0]
    assert all((one.path, one.headers) == (first.path, first.headers) for one in requests)
    for number, one in enumerate(requests, 1):
        (folder / str(number)).write_bytes(one.body)
    headers = ", ".join(f"[{json.dumps(name)}] = {json.dumps(value)}" for name, value in first.headers.items())
    values = {"COUNT": str(len(requests)), "FOLDER": str(folder), "PATH": first.path, "HEADERS": f"{{{headers}}}"}
    script = folder / "post.lua"
    script.write_text(re.sub("|".join(values), lambda match: values[match[0]], SCRIPT), encoding="utf-8")
    return script


def run(script: Path, port: int, connections: int, seconds: float) -> tuple[Load, str]:
    """Asks for so long over so many connections; also what wrk printed. Raises LoadFailed."""
    command = [generator(), "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", f"--timeout={TIMEOUT_S}s"]
    command += ["--latency", "-s", str(script), f"http://127.0.0.1:{port}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LoadFailed((done.stderr or done.stdout).strip().splitlines()[-1])
    return read(done.stdout), done.stdout


def read(said: str) -> Load:
    """What wrk printed, in numbers. Raises LoadFailed if its summary is not in it, or says of no request."""
    found = re.search(r"^summary (\{.*\})$", said, re.MULTILINE)
    if found is None:
        raise LoadFailed("wrk printed no summary")
    summary = json.loads(found[1])
    if summary["requests"] == 0:
        raise LoadFailed("no request was answered in the time of a measurement")
    failed = summary["status"] + summary["sockets"] + summary["timeouts"]
    p50, p90, p99, most = (summary[name] / 1000 for name in ("p50", "p90", "p99", "max"))
    return Load(1e6 * summary["requests"] / summary["microseconds"], p50, p90, p99, most, failed)
