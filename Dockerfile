# Images of the runtime:
#
#   docker build --tag wander .                                  the server, on processors; holds no PyTorch
#   docker build --tag wander:gpu --target gpu .                 the server, on NVIDIA GPUs, with TensorRT
#   docker build --tag wander:export --target export .           checkpoints to bundles, training; PyTorch for processors
#   docker build --tag wander:demo --target demo .               the page that tries a server out
#
#   docker run --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \
#     --publish 127.0.0.1:8000:8000 --volume "$PWD/models:/models:ro" wander
#
# Nothing is written but /tmp, and /indexes where there are retrieval indexes. The base is pinned by its exact tag; who
# needs the same bytes for ever adds the digest that `docker buildx imagetools inspect` prints.

FROM python:3.11.14-slim-bookworm AS base
ENV PATH=/opt/wander/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    WANDER_MODELS=/models \
    WANDER_INDEXES=/indexes \
    WANDER_HOST=0.0.0.0 \
    WANDER_PORT=8000
RUN groupadd --gid 1000 wander \
    && useradd --uid 1000 --gid 1000 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin wander \
    && install --directory --owner 1000 --group 1000 /models /indexes

# The project itself: changes with every line of it, and is installed last.
FROM base AS wheel
WORKDIR /src
COPY . .
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# What packages need to be known: their layers stay as long as pyproject.toml and constraints.txt do.
FROM base AS packages
WORKDIR /src
COPY LICENSE constraints.txt pyproject.toml ./
COPY wander/__init__.py wander/
RUN touch README.md && python -m venv /opt/wander

FROM packages AS cpu-packages
RUN python -m pip install --no-cache-dir --constraint constraints.txt '.[serve,grpc,telemetry]'
COPY --from=wheel /wheels /wheels
RUN python -m pip install --no-cache-dir --no-deps --force-reinstall /wheels/*.whl

# Both packages of ONNX Runtime fill one folder, so that the one for processors has to go first. TensorRT's libraries are
# on NVIDIA's own index alone.
FROM cpu-packages AS gpu-packages
ENV PIP_EXTRA_INDEX_URL=https://pypi.nvidia.com
RUN python -m pip uninstall --yes onnxruntime \
    && python -m pip install --no-cache-dir --constraint constraints.txt 'wander[gpu]'

# On the general index PyTorch comes with two gigabytes of CUDA, which export does not use.
FROM packages AS export-packages
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
RUN python -m pip install --no-cache-dir --constraint constraints.txt '.[serve,export]'
COPY --from=wheel /wheels /wheels
RUN python -m pip install --no-cache-dir --no-deps --force-reinstall /wheels/*.whl

FROM packages AS demo-packages
RUN python -m pip install --no-cache-dir --constraint constraints.txt '.[serve,demo]'
COPY --from=wheel /wheels /wheels
RUN python -m pip install --no-cache-dir --no-deps --force-reinstall /wheels/*.whl

FROM base AS export
COPY --from=export-packages /opt/wander /opt/wander
USER 1000:1000
HEALTHCHECK NONE
ENTRYPOINT ["wander"]
CMD ["--help"]

FROM base AS demo
COPY --from=demo-packages /opt/wander /opt/wander
USER 1000:1000
EXPOSE 7860
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:7860/', timeout=4)"]
ENTRYPOINT ["wander", "demo", "--host", "0.0.0.0", "--port", "7860"]
CMD ["--url", "http://server:8000"]

# NVIDIA_*: what the container toolkit lets in. LD_LIBRARY_PATH: where the packages of CUDA, cuDNN and TensorRT put theirs.
FROM base AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    LD_LIBRARY_PATH=/opt/wander/lib/python3.11/site-packages/nvidia/cu13/lib:/opt/wander/lib/python3.11/site-packages/nvidia/cudnn/lib:/opt/wander/lib/python3.11/site-packages/tensorrt_libs
COPY --from=gpu-packages /opt/wander /opt/wander
USER 1000:1000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open(f'http://127.0.0.1:{os.environ[\"WANDER_PORT\"]}/readyz', timeout=4)"]
ENTRYPOINT ["wander"]
CMD ["serve"]

# The last stage is the one that is built if none is named.
FROM base AS cpu
COPY --from=cpu-packages /opt/wander /opt/wander
USER 1000:1000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open(f'http://127.0.0.1:{os.environ[\"WANDER_PORT\"]}/readyz', timeout=4)"]
ENTRYPOINT ["wander"]
CMD ["serve"]
