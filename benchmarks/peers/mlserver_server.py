"""MLServer with a runtime of our own. Adaptive batching of up to 32 rows, one worker process, two engine threads.

Its documentation: batching is on when `max_batch_size` and `max_batch_time` are set; `parallel_workers` 1 is the
default. The batch time is 1 ms: with 0 it would never batch. Metrics and access logs are off.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from _runtime import MAX_BATCH_SIZE, Model, options
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Runtime(MLModel):
    async def load(self) -> bool:
        extra = self.settings.parameters.extra
        self.model = Model(extra["graph"], extra["threads"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = {one.name: NumpyCodec.decode_input(one).astype("float32", copy=False) for one in payload.inputs}
        output = self.model.run(rows)
        outputs = [NumpyCodec.encode_output(self.model.output, output)]
        return InferenceResponse(model_name=self.name, outputs=outputs)


if __name__ == "__main__":
    given = options()
    folder = Path(tempfile.mkdtemp())
    settings = {
        "host": "127.0.0.1",
        "http_port": given.port,
        "grpc_port": given.port + 1,
        "metrics_endpoint": None,
        "parallel_workers": 1,
        "environments_dir": str(folder / "environments"),
        "debug": False,
        "access_log_enabled": False,
    }
    model = {
        "name": given.name,
        "implementation": "mlserver_server.Runtime",
        "max_batch_size": MAX_BATCH_SIZE,
        "max_batch_time": 0.001,
        "parameters": {"extra": {"graph": str(given.graph), "threads": given.threads}},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent)
    mlserver = Path(sys.executable).with_name("mlserver")
    sys.exit(subprocess.call([str(mlserver), "start", str(folder)]))
