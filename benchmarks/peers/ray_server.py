"""Ray Serve: a deployment with `@serve.batch`, up to 32 rows, one replica of two engine threads on a local cluster.

Settings follow its performance guide: the throughput-optimised mode, and room for all requests that are under way.
A wait of 1 ms for a batch.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import signal

import orjson
import ray
from _runtime import MAX_BATCH_SIZE, Model, options
from ray import serve
from ray.serve.config import HTTPOptions
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(
    num_replicas=1, max_ongoing_requests=1024, ray_actor_options={"num_cpus": 1}, graceful_shutdown_timeout_s=1
)
class Deployment:
    def __init__(self, graph: str, threads: int) -> None:
        self.model = Model(graph, threads)

    @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=0.001)
    async def run(self, rows: list) -> list:
        return self.model.run_rows(rows)

    async def __call__(self, request: Request) -> Response:
        body = await request.body()
        if request.url.path == "/binary":
            answer = await self.run(self.model.row_of_bytes(body))
            return Response(answer.tobytes(), media_type="application/octet-stream")
        answer = await self.run(self.model.row_of_lists(orjson.loads(body)))
        return Response(orjson.dumps({"output": answer.tolist()}), media_type="application/json")


if __name__ == "__main__":
    given = options()
    here = os.path.dirname(os.path.abspath(__file__))
    ray.init(
        address="local",  # and no cluster that happens to run on this machine
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=200_000_000,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": here}},
    )
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=given.port))
    serve.run(Deployment.bind(str(given.graph), given.threads), route_prefix="/")
    signal.pause()
