#!/usr/bin/env bash
# Writes docker/*-requirements.lock: the part of requirements.lock that each image installs, with its hashes.
# `make lock` runs it; tests/docker/test_locks.py notices when it should have been.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-.venv-uv/bin/uv}

lock() {
    local image=$1
    shift
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
        --constraints requirements.lock --output-file "docker/$image-requirements.lock" "$@"
}

lock steps pyproject.toml --extra lightgbm --extra search
lock airflow docker/airflow-requirements.in --no-deps
lock mlflow docker/mlflow-requirements.in
