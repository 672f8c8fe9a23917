"""Bare FastAPI with a simple batcher: what a careful person writes in an afternoon.

One engine thread; while it computes, requests gather, and it takes what is there, up to 32 rows. No limits, no
deadlines, no cancelled requests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import numpy as np
import orjson
import uvicorn
from _runtime import MAX_BATCH_SIZE, Model, options
from fastapi import FastAPI, Request, Response

OPTIONS = options()
model = Model(OPTIONS.graph, OPTIONS.threads)


class Batcher:
    def __init__(self) -> None:
        self.waiting: deque[tuple[dict[str, np.ndarray], asyncio.Future]] = deque()
        self.some = asyncio.Event()
        self.engine = ThreadPoolExecutor(1)

    async def submit(self, row: dict[str, np.ndarray]) -> np.ndarray:
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((row, future))
        self.some.set()
        return await future

    async def work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self.some.wait()
            batch = [self.waiting.popleft() for _ in range(min(len(self.waiting), MAX_BATCH_SIZE))]
            if not self.waiting:
                self.some.clear()
            try:
                answers = await loop.run_in_executor(self.engine, model.run_rows, [row for row, _ in batch])
            except Exception as error:  # noqa: BLE001  those who wait are told
                for _, future in batch:
                    future.set_exception(error)
            else:
                for (_, future), answer in zip(batch, answers, strict=True):
                    if not future.done():
                        future.set_result(answer)


batcher = Batcher()


@asynccontextmanager
async def lifespan(app: FastAPI):
    task = asyncio.create_task(batcher.work())
    yield
    task.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/binary")
async def binary(request: Request) -> Response:
    answer = await batcher.submit(model.row_of_bytes(await request.body()))
    return Response(answer.tobytes(), media_type="application/octet-stream")


@app.post("/json")
async def json(request: Request) -> Response:
    answer = await batcher.submit(model.row_of_lists(orjson.loads(await request.body())))
    return Response(orjson.dumps({"output": answer.tolist()}), media_type="application/json")


uvicorn.run(app, port=OPTIONS.port, log_level="warning", access_log=False)
