#!/usr/bin/env bash
# Makes .venv what requirements.lock says: python3 -> pip -> uv (pinned, in .venv-uv) -> .venv.
# Usage: tools/venv.sh [uv|slow]     "uv" stops after the tool itself, for `make lock`; "slow" makes .venv-slow,
# which also has the model libraries that only the slow tests use.
# PYTHON=... chooses the interpreter. Packages come from wherever the user's uv or pip is configured to look.
set -euo pipefail
cd "$(dirname "$0")/.."
UV_VERSION=0.13.8
began=$SECONDS

# A pyenv or asdf shim may exist for a version that is not installed, so each is asked, not only looked for.
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
        if [ "$candidate" = "${PYTHON:-}" ]; then break; fi
    done
    echo "Python 3.11 or newer with its venv module is needed, and ${PYTHON:-python3} is not that:" >&2
    echo "  $("${PYTHON:-python3}" --version 2>&1 || true)" >&2
    echo "Install it (on Debian: python3 and python3-venv), or name one: make venv PYTHON=/path/to/python3.11" >&2
    return 1
}

# uv does not read pip's configuration; where uv has none of its own, hand it pip's. As pip does, take the best
# version from all indexes: the hashes in the lock say what may be installed.
use_pip_configuration() {
    if [ -n "${UV_DEFAULT_INDEX:-}${UV_INDEX:-}${UV_INDEX_URL:-}${UV_EXTRA_INDEX_URL:-}${UV_CONFIG_FILE:-}" ] ||
        [ -f "${XDG_CONFIG_HOME:-$HOME/.config}/uv/uv.toml" ] || [ -f /etc/uv/uv.toml ]; then
        return
    fi
    local key value
    while IFS='=' read -r key value; do
        value=${value#\'}
        value=${value%\'}
        value=${value//\\n/ }
        case "$key" in
        *.extra-index-url) export UV_EXTRA_INDEX_URL="$value" UV_INDEX_STRATEGY=unsafe-best-match ;;
        *.index-url) export UV_DEFAULT_INDEX="$value" ;;
        *.find-links) export UV_FIND_LINKS="${value// /,}" ;;
        *.cert) export SSL_CERT_FILE="${SSL_CERT_FILE:-$value}" ;;
        esac
    done < <(.venv-uv/bin/python -m pip config list 2>/dev/null)
}

if [ "$(.venv-uv/bin/uv --version 2>/dev/null | cut -d' ' -f2)" != "$UV_VERSION" ]; then
    python=$(find_python)
    rm -rf .venv-uv
    "$python" -m venv .venv-uv
    .venv-uv/bin/python -m pip install -qq --disable-pip-version-check "uv==$UV_VERSION"
fi
if [ "${1:-}" = uv ]; then exit; fi

use_pip_configuration
uv() { .venv-uv/bin/uv --quiet "$@"; }
venv=.venv
if [ "${1:-}" = slow ]; then venv=.venv-slow; fi
if ! $venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    uv venv --clear --python "$(find_python)" $venv
fi
export VIRTUAL_ENV="$PWD/$venv"
uv pip sync --require-hashes requirements.lock
uv pip install --no-deps --editable .
if [ "${1:-}" = slow ]; then
    # The pin keeps to a release that has a build for processors alone where the index offers one.
    uv pip install --constraints requirements.lock torch==2.13.0 xgboost catboost onnx onnxruntime statsmodels \
        'pyspark>=4,<5'
fi
touch $venv/.stamp
echo "environment ready in $((SECONDS - began)) s: $($venv/bin/python --version), $(wc -l < <(grep '==' requirements.lock)) locked packages"
