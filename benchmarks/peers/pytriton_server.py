"""Triton's front end, through pytriton: its HTTP server and dynamic batcher in C++, the graph in a Python process.

Batches of up to 32 rows, no added delay, as Triton's guide begins; one engine instance of two threads.
"""

from __future__ import annotations

import numpy as np
from _runtime import MAX_BATCH_SIZE, Model, options
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

OPTIONS = options()
model = Model(OPTIONS.graph, OPTIONS.threads)


@batch
def infer(**inputs: np.ndarray) -> dict[str, np.ndarray]:
    return {model.output: model.run(inputs)}


config = TritonConfig(
    http_address="127.0.0.1",
    http_port=OPTIONS.port,
    grpc_port=OPTIONS.port + 1,
    metrics_port=OPTIONS.port + 2,
    allow_metrics=False,
    log_verbose=0,
)
with Triton(config=config) as triton:
    triton.bind(
        model_name=OPTIONS.name,
        infer_func=infer,
        inputs=[Tensor(name=name, dtype=np.float32, shape=shape) for name, shape in model.inputs.items()],
        outputs=[Tensor(name=model.output, dtype=np.float32, shape=(model.width,))],
        config=ModelConfig(max_batch_size=MAX_BATCH_SIZE, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
        strict=False,
    )
    triton.serve()
