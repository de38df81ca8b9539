#!/usr/bin/env bash
# Run by Snakemake in each conda environment that it creates from environment.yml (--software-deployment-method conda):
# installs the Python packages of requirements.lock and emofuse.
set -euo pipefail
uv pip install --python "$CONDA_PREFIX/bin/python" --requirement requirements.lock
uv pip install --python "$CONDA_PREFIX/bin/python" --no-deps --no-build-isolation --editable .
"$CONDA_PREFIX/bin/python" -m emofuse.utils.user
