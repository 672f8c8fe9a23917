"""LitServe. Batches of up to 32 rows; ZeroMQ between the HTTP server and the worker (`fast_queue`).

Settings follow its documentation: `fast_queue` from 100 requests/s on; one worker a device with two threads, one HTTP
server a worker. A batch timeout of 1 ms: with 0 it would never batch.
"""

from typing import Annotated

import litserve
import numpy as np
from _runtime import MAX_BATCH_SIZE, Model, options
from fastapi import Body, Response

OPTIONS = options()


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.model = Model(OPTIONS.graph, OPTIONS.threads)

    def batch(self, inputs: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        return inputs

    def predict(self, rows: list[dict[str, np.ndarray]]) -> list[np.ndarray]:
        return self.model.run_rows(rows)

    def unbatch(self, output: list[np.ndarray]) -> list[np.ndarray]:
        return output


class BinaryApi(Api):
    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]):
        return self.model.row_of_bytes(request)

    def encode_response(self, output) -> Response:
        return Response(output.tobytes(), media_type="application/octet-stream")


class JsonApi(Api):
    def decode_request(self, request):
        return self.model.row_of_lists(request)

    def encode_response(self, output):
        return {"output": output.tolist()}


if __name__ == "__main__":
    api = {"binary": BinaryApi, "json": JsonApi}[OPTIONS.form]
    server = litserve.LitServer(
        api(max_batch_size=MAX_BATCH_SIZE, batch_timeout=0.001, api_path=f"/{OPTIONS.form}"),
        accelerator="cpu",
        workers_per_device=1,
        fast_queue=True,
        timeout=False,
    )
    server.run(host="127.0.0.1", port=OPTIONS.port, generate_client_file=False, log_level="warning", pretty_logs=False)
