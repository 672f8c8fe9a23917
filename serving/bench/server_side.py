"""What a server says of itself: its metrics before and after, and what the system says of its processes.

Knows our metrics, and those that Prometheus' client libraries add to every process. What is absent is called absent.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

import httpx

from serving.bench.loads import Server

STAGES = ("queue", "preprocess", "inference", "postprocess")
STAGE, ROWS = "wander_stage_seconds", "wander_batch_rows"
CPU, MEMORY = "process_cpu_seconds_total", "process_resident_memory_bytes"
LISTEN = "0A"
"""State of a listening socket in /proc/net/tcp."""

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass(frozen=True)
class Snapshot:
    """Attributes: samples: of the metrics; None if there are none. cpu_s, memory_bytes: of the processes, if known."""

    at: float
    samples: Samples | None
    why: str
    cpu_s: float | None
    memory_bytes: float | None


def snapshot(url: str, headers: Mapping[str, str], pids: Iterable[int]) -> Snapshot:
    samples, why = scrape(url, headers)
    used = [usage for pid in pids if (usage := usage_of(pid)) is not None]
    cpu = sum(usage[0] for usage in used) if used else None
    return Snapshot(monotonic(), samples, why, cpu, sum(usage[1] for usage in used) if used else None)


def scrape(url: str, headers: Mapping[str, str]) -> tuple[Samples | None, str]:
    """All samples of `/metrics`, or None and the reason."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        answer = httpx.get(f"{url}/metrics", headers=dict(headers), timeout=10, trust_env=False)
    except httpx.HTTPError as error:
        return None, f"absent: /metrics cannot be read ({type(error).__name__})"
    if not answer.is_success:
        return None, f"absent: /metrics answers {answer.status_code}"
    try:
        families = list(text_string_to_metric_families(answer.text))
    except ValueError:
        return None, "absent: /metrics is not in Prometheus' form"
    return {(s.name, frozenset(s.labels.items())): s.value for f in families for s in f.samples}, "/metrics"


def between(before: Snapshot, after: Snapshot, model: str | None) -> Server:
    """What happened meanwhile, of one model."""
    server = Server()
    if before.samples is None or after.samples is None:
        why = before.why if before.samples is None else after.why
        server.source = {"stages": why, "batches": why}
    else:
        _of_metrics(server, before.samples, after.samples, model)
    elapsed = after.at - before.at
    samples = after.samples or {}
    if (CPU, frozenset()) in samples:
        start = (before.samples or {}).get((CPU, frozenset()), 0.0)
        server.cpu_cores = (samples[CPU, frozenset()] - start) / elapsed
        server.memory_bytes = samples.get((MEMORY, frozenset()))
        server.source["process"] = "/metrics"
        return server
    if before.cpu_s is None or after.cpu_s is None:
        server.source["process"] = "absent: no process_* metrics, and the server is not a process that can be seen here"
        return server
    server.cpu_cores, server.memory_bytes = (after.cpu_s - before.cpu_s) / elapsed, after.memory_bytes
    server.source["process"] = "/proc"
    return server


def _of_metrics(server: Server, before: Samples, after: Samples, model: str | None) -> None:
    def gained(name: str, **labels: str) -> float:
        """Of all series with these labels, and of the model."""
        wanted = {**labels, **({"model": model} if model else {})}
        return sum(
            value - before.get((found, have), 0.0)
            for (found, have), value in after.items()
            if found == name and wanted.items() <= dict(have).items()
        )

    counts = {stage: gained(f"{STAGE}_count", stage=stage) for stage in (*STAGES, "request")}
    if counts["request"] > 0:
        server.stages_ms = {
            stage: 1000 * gained(f"{STAGE}_sum", stage=stage) / counts["request"]
            for stage, count in counts.items()
            if count > 0
        }
        server.source["stages"] = "/metrics"
    else:
        server.source["stages"] = f"absent: /metrics has no {STAGE} of this model"
    batches = gained(f"{ROWS}_count")
    if batches <= 0:
        server.source["batches"] = f"absent: /metrics has no {ROWS} of this model"
        return
    server.batch_rows = gained(f"{ROWS}_sum") / batches
    server.source["batches"] = "/metrics"
    bounds = {dict(have)["le"] for (name, have) in after if name == f"{ROWS}_bucket"}
    server.batches, below = {}, 0.0
    for bound in sorted(bounds, key=float):
        upto = gained(f"{ROWS}_bucket", le=bound)
        if upto > below:
            server.batches[bound] = upto - below
        below = upto


def listeners(url: str) -> list[int]:
    """Processes of this machine that listen at a URL, as far as we may see them; none if it is another machine."""
    parts = urlsplit(url)
    with suppress(OSError):
        address = socket.gethostbyname(parts.hostname or "")
        if not address.startswith("127."):
            return []
        inodes = _listening(parts.port or 80)
        return [pid for pid in _processes() if inodes & _sockets(pid)]
    return []


def _listening(port: int) -> set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(f"socket:[{fields[9]}]")
    return found


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def _sockets(pid: int) -> set[str]:
    found = set()
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                found.add(os.readlink(entry))
    return found


def usage_of(pid: int) -> tuple[float, float] | None:
    """Seconds of a core and resident bytes of a process; None if it cannot be seen."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return None
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK"), float(pages * os.sysconf("SC_PAGE_SIZE"))
