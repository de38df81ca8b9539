# Everything here runs in .venv, which environment.sh makes from requirements.lock when a target first needs it.
PYTHON ?= python3
BIN = .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export MLFLOW_DISABLE_TELEMETRY = true
# A run consists of many short processes, so compiled modules are worth keeping.
unexport PYTHONDONTWRITEBYTECODE
CORES ?= $(shell nproc)
# Three tests at a time, because some wait for a server or for Slurm.
PARALLEL = --numprocesses 3 --dist loadgroup

.PHONY: demo pull test integration soak soak-long lint format ui schema lock always

# The synthetic corpus, from nothing to results/demo/report.html. Does not touch dvc.lock.
demo: .venv/.ready
	snakemake demo --cores $(CORES)
	@echo "Report: results/demo/report.html"

# Outputs from the DVC remote, adopted if they still follow from the parameters and the code.
pull: .venv/.ready
	dvc pull --allow-missing
	emofuse adopt

# Unit tests, and one run of a tiny corpus with each engine.
test: .venv/.ready
	pytest -m "not integration and not slow and not long" --numprocesses 3 --dist loadfile --no-loadscope-reorder

# Tests that run engines and servers many times. CI runs them after the unit tests.
integration: .venv/.ready
	pytest -m integration $(PARALLEL)

# The integration tests and those that take longer, about an hour. Run before a release.
soak: .venv/.ready
	pytest -m "integration or slow" $(PARALLEL)

# 200 kills at random moments.
soak-long: .venv/.ready
	pytest -m long $(PARALLEL)

lint: .venv/.ready
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile workflow
	snakemake --lint

format: .venv/.ready
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow

# The MLflow UI; after a clone or pull, `emofuse track <corpus>` fills the store first.
ui: .venv/.ready
	emofuse ui

schema: .venv/.ready
	emofuse schema > workflow/schemas/params.schema.json

lock: .venv/.ready
	uv pip compile pyproject.toml --universal --group dev --generate-hashes --no-emit-index-url \
		--quiet --output-file requirements.lock

.venv/.ready: requirements.lock pyproject.toml environment.sh $(if $(shell sh environment.sh usable || echo no),always)
	@PYTHON='$(PYTHON)' sh environment.sh
