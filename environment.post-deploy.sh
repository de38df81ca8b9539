#!/usr/bin/env bash
# Snakemake runs this in each conda environment that it makes from environment.yml (--software-deployment-method conda):
# the Python packages of the lock and emofuse itself.
set -euo pipefail
uv pip install --python "$CONDA_PREFIX/bin/python" --requirement requirements.lock
uv pip install --python "$CONDA_PREFIX/bin/python" --no-deps --no-build-isolation --editable .
