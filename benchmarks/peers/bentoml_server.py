"""BentoML: a service with a batchable endpoint, up to 32 rows, one worker process of two engine threads.

Its documentation: `batchable=True` with `max_batch_size`; the dispatcher adapts its own window. Binary bodies are rows
of bytes that a validator wraps; without it a batchable endpoint reads JSON alone.
"""

import os
import subprocess
import sys
from typing import Annotated, Any

import bentoml
from _runtime import MAX_BATCH_SIZE, Model, options
from pydantic import BeforeValidator, WithJsonSchema

Bytes = Annotated[list, BeforeValidator(lambda body: [body]), WithJsonSchema({"type": "string", "format": "binary"})]


@bentoml.service(workers=1, threads=1, traffic={"timeout": 120, "max_concurrency": 1024}, metrics={"enabled": False})
class Service:
    def __init__(self) -> None:
        self.model = Model(os.environ["GRAPH"], int(os.environ["THREADS"]))

    @bentoml.api(route="/binary", batchable=True, max_batch_size=MAX_BATCH_SIZE)
    def binary(self, body: Bytes, /) -> list[list[float]]:
        return [answer.tolist() for answer in self.model.run_rows([self.model.row_of_bytes(row) for row in body])]

    @bentoml.api(route="/json", batchable=True, max_batch_size=MAX_BATCH_SIZE)
    def json(self, rows: list[dict[str, Any]]) -> list[list[float]]:
        return [answer.tolist() for answer in self.model.run_rows([self.model.row_of_lists(row) for row in rows])]


if __name__ == "__main__":
    given = options()
    os.environ.update(GRAPH=str(given.graph), THREADS=str(given.threads), BENTOML_DO_NOT_TRACK="true")
    here = os.path.dirname(os.path.abspath(__file__))
    command = ["bentoml", "serve", "bentoml_server:Service", "--working-dir", here, "--host", "127.0.0.1"]
    bentoml_cli = os.path.join(os.path.dirname(sys.executable), "bentoml")
    sys.exit(subprocess.call([bentoml_cli, *command[1:], "--port", str(given.port)]))
