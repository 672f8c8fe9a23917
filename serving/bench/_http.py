"""The load generator over HTTP/1.1: one request, made beforehand, over keep-alive connections.

    python -m serving.bench._http    (a configuration and commands on stdin, see `serving.bench._child`)

A closed loop sends on each connection as soon as the last answer is whole. An open loop sends at the moments of a
Poisson process, whatever the server does; a request that is due waits for a connection if all are busy, and its latency
counts from the moment at which it was due. Knows nothing of what is in a body. A plain loop over a selector, since on
few cores the generator takes its share from the server: this costs less than an event loop of callbacks and futures.
"""

from __future__ import annotations

import base64
import select
import selectors
import socket
import sys
from collections import deque
from typing import Any

from httptools import HttpParserError, HttpResponseParser

from serving.bench._child import SECOND, Window, arrivals, clock, serve

CHUNK = 1 << 18
RETRY_NS = 20_000_000
"""After a connection failed, so that a server which is gone is not asked in a busy loop."""
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Connection:
    """Attributes:

    since: from when the latency of the request on its way counts; 0 if none is.
    rest: what of that request could not be sent yet.
    done: whether its answer is whole. lasting: whether the connection takes another request after it.
    """

    __slots__ = ("connected", "done", "lasting", "parser", "rest", "since", "socket")

    def __init__(self, family: int, address: Any) -> None:
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex(address)
        self.parser = HttpResponseParser(self)
        self.since = 0
        self.rest: memoryview | None = None
        self.connected = self.done = self.lasting = False

    def on_message_complete(self) -> None:
        self.done = True
        self.lasting = self.parser.should_keep_alive()  # the parser knows it now, and no longer


class Generator:
    """Attributes: free: connections without a request, for the open loop. backlog: what is due and not sent."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.request = base64.b64decode(config["request"])
        self.timeout = int(config["timeout_s"] * SECOND)
        self.most = int(config["connections"])
        found = socket.getaddrinfo(config["host"], config["port"], type=socket.SOCK_STREAM)
        self.family: socket.AddressFamily = found[0][0]
        self.address: Any = found[0][4]
        # One for all: to allocate so much for every answer would take longer than all the rest.
        self.buffer = memoryview(bytearray(CHUNK))
        self.selector = selectors.DefaultSelector()
        self.selector.register(sys.stdin, READ, None)

    def ready(self) -> dict[str, Any]:
        return {}

    def run(self, command: dict[str, Any]) -> None:
        """Makes one load until it is told to stop; then waits for the answers that are still to come."""
        self.connections: set[Connection] = set()
        self.free: list[Connection] = []
        self.again: list[Connection] = []
        self.backlog: deque[int] = deque()
        self.closed_loop = command["kind"] == "closed"
        self.stopping = False
        self.missing = int(command["amount"]) if self.closed_loop else 0
        self.retry_at = 0
        self.window = Window()
        length = int(command["window_s"] * SECOND)
        edge = self.window.started + length
        moments = None if self.closed_loop else arrivals(command["amount"], command["seed"], self.window.started)
        due = next(moments) if moments else 0
        until = 0
        while True:
            now = clock()
            if now >= edge and not self.stopping:
                self._expire(now)
                self.window.say()
                self.window = Window()
                edge = self.window.started + length
            if self.stopping:
                until = until or now + self.timeout
                if not self._on_their_way() or now >= until:
                    break
            wake = until if self.stopping else edge
            if self.missing and not self.stopping:
                self._replace(now)
                wake = min(wake, now + RETRY_NS)
            if moments is not None and not self.stopping:
                while due <= now:
                    self.window.late.append(now - due)
                    self.backlog.append(due)
                    due = next(moments)
                self._work_off()
                wake = min(wake, due)
            self._wait(max(0, wake - clock()) / SECOND)
        self._expire(clock(), all_of_them=True)
        self.window.say(last=True, unsent=len(self.backlog))
        for connection in self.connections:
            self.selector.unregister(connection.socket)
            connection.socket.close()

    def _wait(self, seconds: float) -> None:
        """Lets answers in, for so long at most."""
        if not self.closed_loop and seconds:
            # A selector counts in milliseconds, which would make every request of an open loop late.
            select.select([self.selector], [], [], seconds)
            seconds = 0
        for key, mask in self.selector.select(seconds):
            connection = key.data
            if connection is None:
                line = sys.stdin.buffer.readline()
                if not line:
                    sys.exit(0)  # the parent has gone
                self.stopping = True
                continue
            if mask & WRITE:
                self._flush(connection)
            if mask & READ:
                self._receive(connection)
        # Only now: times are taken before anything is sent, and requests go out as close together as answers came.
        for connection in self.again:
            self._send(connection, clock())
        self.again.clear()

    def _on_their_way(self) -> bool:
        return any(connection.since for connection in self.connections)

    def _open(self, since: int) -> None:
        """A new connection, over which a request goes as soon as it stands."""
        connection = Connection(self.family, self.address)
        connection.since, connection.rest = since, memoryview(self.request)
        self.connections.add(connection)
        self.selector.register(connection.socket, READ | WRITE, connection)

    def _replace(self, now: int) -> None:
        """Connections that a closed loop lacks."""
        if now >= self.retry_at:
            for _ in range(self.missing):
                self._open(now)
            self.missing = 0

    def _work_off(self) -> None:
        """Sends what is due while there are connections for it."""
        while self.backlog:
            if self.free:
                self._send(self.free.pop(), self.backlog.popleft())
            elif len(self.connections) < self.most:
                self._open(self.backlog.popleft())
            else:
                break

    def _send(self, connection: Connection, since: int) -> None:
        connection.since = since
        try:
            sent = connection.socket.send(self.request)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(connection, "connection lost")
            return
        if sent < len(self.request):
            connection.rest = memoryview(self.request)[sent:]
            self.selector.modify(connection.socket, READ | WRITE, connection)

    def _flush(self, connection: Connection) -> None:
        """Sends on what is left of a request."""
        if connection.rest is None:
            return
        try:
            if not connection.connected and connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._drop(connection, "no connection")
                return
            connection.connected = True
            connection.rest = connection.rest[connection.socket.send(connection.rest) :]
        except BlockingIOError:
            return
        except OSError:
            self._drop(connection, "connection lost")
            return
        if not connection.rest:
            connection.rest = None
            self.selector.modify(connection.socket, READ, connection)

    def _receive(self, connection: Connection) -> None:
        if connection not in self.connections:  # dropped by what came just before
            return
        try:
            size = connection.socket.recv_into(self.buffer)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        now = clock()
        if not size:
            self._drop(connection, "connection lost" if connection.connected else "no connection")
            return
        try:
            connection.parser.feed_data(self.buffer[:size])
        except HttpParserError:
            self._drop(connection, "not HTTP")
            return
        if connection.done:
            self._answered(connection, now)

    def _answered(self, connection: Connection, now: int) -> None:
        status = connection.parser.get_status_code()
        self.window.statuses[str(status)] += 1
        kind = self.window.latencies if 200 <= status < 300 else self.window.failures
        kind.append(now - connection.since)
        connection.since, connection.done = 0, False
        if not connection.lasting or connection.rest is not None:
            self._drop(connection, "")
        elif self.stopping:
            return
        elif self.closed_loop:
            self.again.append(connection)
        elif self.backlog:
            self.window.waited += 1
            self._send(connection, self.backlog.popleft())
        else:
            self.free.append(connection)

    def _drop(self, connection: Connection, reason: str) -> None:
        """Closes a connection; a request that was on its way is counted under the reason."""
        if connection.since:
            self.window.statuses[reason] += 1
            self.retry_at = clock() + RETRY_NS
        elif connection in self.free:
            self.free.remove(connection)
        self.selector.unregister(connection.socket)
        connection.socket.close()
        self.connections.discard(connection)
        self.missing += self.closed_loop

    def _expire(self, now: int, all_of_them: bool = False) -> None:
        """Gives up requests that were not answered in time."""
        for connection in [c for c in self.connections if c.since]:
            if all_of_them or now - connection.since > self.timeout:
                self._drop(connection, "timeout")


if __name__ == "__main__":
    serve(Generator)
