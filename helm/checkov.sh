#!/usr/bin/env bash
# Runs checkov with this repository's reasons for exceptions: helm/checkov.sh --directory DIR ...
# It lives in .venv-checkov, made here from its own lock: what it pins does not go together with requirements.lock.
# LOCK=1 resolves that lock anew.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
venv="$root/.venv-checkov" lock="$root/helm/checkov-requirements.lock" uv=${UV:-$root/.venv-uv/bin/uv}

if [ -n "${LOCK:-}" ]; then
    echo checkov | "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --no-header --no-annotate --output-file "$lock" -
    exit
fi
if [ ! "$venv/.stamp" -nt "$lock" ]; then
    "$uv" venv --quiet --clear --python "${PYTHON:-$root/.venv/bin/python}" "$venv"
    VIRTUAL_ENV="$venv" "$uv" pip sync --quiet --require-hashes "$lock"
    touch "$venv/.stamp"
fi
# Without bytecode it takes twice as long.
exec env -u PYTHONDONTWRITEBYTECODE -u PYTHONPATH "$venv/bin/checkov" --config-file "$root/helm/checkov.yaml" "$@"
