# Two commands matter: `make run` and `make test`. Both set up everything they need.
PYTHON ?= python3.11
PORT ?= 8000
BIN := .venv/bin
INSTALLED := .venv/installed
ZOO := $(wildcard zoo/*/adapter/adapter_config.json)
BUNDLES := $(patsubst zoo/%/adapter/adapter_config.json,models/%/1/manifest.json,$(ZOO))

RAY := .venv-ray

.PHONY: setup run models verify test test-ray check format docs bench bench-full bench-peers bench-check bench-precision gpu-bench clean

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

run: models verify
	$(BIN)/wander serve models --port $(PORT)

models: $(BUNDLES)

# A shipped checkpoint that changed is exported anew; version 1 is then its only version.
models/%/1/manifest.json: zoo/%/adapter/adapter_config.json zoo/%/adapter/adapter_model.safetensors | $(INSTALLED)
	rm -rf models/$*
	$(BIN)/wander export zoo/$* models/$*

verify: models
	for model in $(BUNDLES:/1/manifest.json=); do $(BIN)/wander verify $$model || exit 1; done

# The tests of one file share servers and bundles, so files are what is dealt out.
test: check
	$(BIN)/pytest --numprocesses 2 --dist loadfile

# Ray is large, and what needs it has an environment of its own.
test-ray: $(RAY)/installed
	$(RAY)/bin/pytest tests/serving/ray

$(RAY)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(RAY)
	$(RAY)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[ray,grpc]' \
		pytest hypothesis onnx
	touch $@

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The pages as a site, in build/site.
docs: setup
	$(BIN)/mkdocs build --strict

bench: models
	$(BIN)/python -m benchmarks.folds
	$(BIN)/python -m benchmarks.adapter_forms
	$(BIN)/python -m benchmarks.startup models
	$(BIN)/python -m benchmarks.hostile_images
	$(BIN)/python -m benchmarks.hostile_videos

# Published sizes, random weights: long, and only worth something on a machine that does nothing else.
bench-full: setup
	$(BIN)/python -m benchmarks.adapter_cost
	$(BIN)/python -m benchmarks.full_size

# Engines, precisions and the roof of the machine, full size, random weights; and the shipped models in every precision.
DATA ?= ../shared/data
bench-precision: setup
	$(BIN)/python -m benchmarks.roofline
	$(BIN)/python -m benchmarks.precision --graphs build/graphs --make
	$(BIN)/python -m benchmarks.precision --graphs build/graphs
	$(BIN)/python -m benchmarks.precision_metrics $(DATA)

# For a machine with an NVIDIA GPU. torch with CUDA is enough; what else there is of engines is measured too.
GPU_PYTHON ?= $(BIN)/python
gpu-bench:
	$(GPU_PYTHON) -m benchmarks.gpu_bench --out benchmarks/results/gpu

# Other servers, each in an environment of its own outside the repository; needs wrk, and three quarters of an hour.
bench-peers: setup
	$(BIN)/python -m benchmarks.peers --out benchmarks/results/peers

# `wander bench` beside wrk, and before a server that stands still.
bench-check: models
	$(BIN)/python -m benchmarks.bench_check models --out benchmarks/results/bench_check

clean:
	rm -rf .venv .venv-ray models build dist *.egg-info
