# Everything here runs in .venv, which the first target that needs it makes from requirements.lock.
PYTHON ?= python3
UV_VERSION = 0.13.8
BIN = .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export MLFLOW_DISABLE_TELEMETRY = true
# A run is many short processes: compiled modules are worth keeping.
unexport PYTHONDONTWRITEBYTECODE
CORES ?= $(shell nproc)

.PHONY: demo test soak lint format ui schema lock

# The made corpus, from nothing to results/demo/report.html. It leaves dvc.lock alone.
demo: .venv/.ready
	EMOFUSE_DVC_COMMIT=0 snakemake demo --cores $(CORES)
	@echo "The report: results/demo/report.html"

# Three files of tests at a time: some wait for a server, or for Slurm.
test: .venv/.ready
	pytest -m "not slow" --numprocesses 3 --dist loadfile --no-loadscope-reorder

# The long tests: run them before a release.
soak: .venv/.ready
	pytest -m slow

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

# The MLflow UI over every fold that is on disk; also after a clone or dvc pull.
ui: .venv/.ready
	emofuse ui

schema: .venv/.ready
	emofuse schema > workflow/schemas/params.schema.json

lock: .venv/.ready
	uv pip compile pyproject.toml --universal --group dev --generate-hashes --no-emit-index-url \
		--quiet --output-file requirements.lock

.venv/.ready: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --requirement requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@
