"""Starts the workers, restarts one that dies, and ends them all. Serves nothing itself."""

from __future__ import annotations

import logging
import multiprocessing
import os
import secrets
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from serving.server import Announce, in_use, run
from serving.settings import Settings
from serving.workers.team import Team
from wander.errors import UsageError, WanderError

log = logging.getLogger(__name__)

RESTART_S = 1.0
"""Least time between two starts of one worker."""
SPAWN = multiprocessing.get_context("spawn")


class Supervisor:
    """Runs `settings.workers` processes that listen on one address; the kernel spreads the connections over them."""

    def __init__(self, settings: Settings, announce: Announce) -> None:
        self.settings = settings
        self.announce = announce
        self._stopping = False
        self._processes: dict[int, SpawnProcess] = {}
        self._news: dict[int, Connection] = {}
        self._started: dict[int, float] = {}

    def run(self) -> None:
        """Serves until a signal ends it. Raises what the first worker that could not start has raised."""
        with tempfile.TemporaryDirectory(prefix="wander-") as folder, self._reserved() as reserved:
            settings = self.settings.model_copy(update={"port": reserved.getsockname()[1]})
            secret = secrets.token_hex(16)
            teams = [Team(n, settings.workers, Path(folder), secret) for n in range(settings.workers)]
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self.stop())
            try:
                for team in teams:
                    self._start(settings, team)
                self._begin()
                while not self._stopping:
                    wait([process.sentinel for process in self._processes.values()], timeout=0.2)
                    for team in teams:
                        self._revive(settings, team)
            finally:
                self._end()

    def stop(self) -> None:
        self._stopping = True

    def _reserved(self) -> socket.socket:
        """The address, bound but not listened on, so that no other program takes it between two workers."""
        family = socket.AF_INET6 if ":" in self.settings.host else socket.AF_INET
        address = (self.settings.host, self.settings.port)
        try:
            socket.create_server(
                address, family=family
            ).close()  # fails if anyone is there, workers of another server too
            reserved = socket.socket(family)
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            reserved.bind(address)
        except OSError as error:
            raise in_use(self.settings) from error
        return reserved

    def _start(self, settings: Settings, team: Team) -> None:
        here, there = SPAWN.Pipe()
        process = SPAWN.Process(target=_work, args=(settings, team, there), name=f"wander-{team.number}")
        process.start()
        there.close()
        self._processes[team.number], self._news[team.number] = process, here
        self._started[team.number] = time.monotonic()

    def _begin(self) -> None:
        """Waits until every worker serves, then says so. Raises if one cannot."""
        said: dict[int, Sequence[str]] = {}
        while len(said) < len(self._news) and not self._stopping:
            for number, news in self._news.items():
                if number not in said and news.poll(0.02):
                    said[number] = self._read(news)
        if not self._stopping:
            self.announce(said[0])

    @staticmethod
    def _read(news: Connection) -> Sequence[str]:
        try:
            kind, content = news.recv()
        except EOFError:
            raise WanderError("a worker ended before it served; the log above tells more") from None
        if kind == "served":
            return list(content)
        raise UsageError(content) if kind == "usage" else WanderError(content)

    def _revive(self, settings: Settings, team: Team) -> None:
        process = self._processes[team.number]
        if process.is_alive() or self._stopping:
            return
        if time.monotonic() - self._started[team.number] < RESTART_S:
            return
        log.error("worker %d ended with status %s; it is started again", team.number, process.exitcode)
        self._news[team.number].close()
        team.socket().unlink(missing_ok=True)
        self._start(settings, team)

    def _end(self) -> None:
        """Asks all to finish, and ends those that take longer than they may."""
        for process in self._processes.values():
            if process.is_alive():
                process.terminate()
        until = time.monotonic() + 2 * self.settings.drain_s + 5
        for process in self._processes.values():
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()


def _work(settings: Settings, team: Team, news: Connection) -> None:
    """One worker, in a process of its own."""
    threading.Thread(target=_follow_parent, daemon=True).start()
    os.umask(0o077)
    inside = socket.socket(socket.AF_UNIX)
    inside.bind(str(team.socket()))
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    outside = socket.socket(family)
    outside.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    outside.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    outside.bind((settings.host, settings.port))  # it is listened on once the models are there
    try:
        run(settings, lambda lines: news.send(("served", lines)), team=team, sockets=[outside, inside])
    except WanderError as error:
        news.send(("usage" if isinstance(error, UsageError) else "error", str(error)))
        raise SystemExit(1) from None


def _follow_parent() -> None:
    """Ends this process with its parent, however that ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
