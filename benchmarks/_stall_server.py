"""An HTTP server that answers everything at once, but stands still for a while, again and again. Of `bench_check`.

    python -m benchmarks._stall_server [--stall-ms 20] [--every-s 1]    (says its port on stdout)

While it stands still it answers nobody, as a server in a garbage collection or behind a busy disk.
"""

from __future__ import annotations

import argparse
import asyncio
import time

import uvloop
from httptools import HttpRequestParser

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class Answering(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = transport.write  # type: ignore[attr-defined]
        self.parser = HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.write(ANSWER)


async def main(stall_s: float, every_s: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Answering, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    due = loop.time()
    while True:
        due += every_s
        await asyncio.sleep(due - loop.time())
        time.sleep(stall_s)  # nothing else is to run meanwhile


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--stall-ms", type=float, default=20)
    parser.add_argument("--every-s", type=float, default=1)
    given = parser.parse_args()
    uvloop.run(main(given.stall_ms / 1000, given.every_s))
