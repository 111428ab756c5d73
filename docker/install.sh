#!/bin/sh
# Makes a Python environment of what a lock says, small and ready to run: what the Dockerfiles do, and what
# tests/docker does without them.
#
#   install.sh PREFIX LOCK [WHEEL] [-- REQUIREMENT...]
#
# REQUIREMENTs are what the user adds; they may not change what is locked. ACCELERATOR (cpu, cu126, ...) chooses
# the builds of PyTorch among them.
set -eu
prefix=$1 lock=$2
shift 2
wheel=
if [ $# -gt 0 ] && [ "$1" != -- ]; then
    wheel=$1
    shift
fi
if [ "${1:-}" = -- ]; then shift; fi

uv venv --quiet --python "${PYTHON:-python3}" "$prefix"
# As it is when it is not "activated": uv installs into it, and nothing else.
export VIRTUAL_ENV="$prefix" UV_LINK_MODE="${UV_LINK_MODE:-copy}"
uv pip install --quiet --require-hashes --requirement "$lock"
if [ $# -gt 0 ]; then
    uv pip install --quiet --constraints "$lock" --torch-backend "${ACCELERATOR:-cpu}" "$@"
fi
if [ -n "$wheel" ]; then uv pip install --quiet --no-deps "$wheel"; fi
uv pip check --quiet

# Not needed to run: tests of libraries, what C compilers read, type stubs.
packages=$("$prefix/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
find "$packages" -type d \( -name tests -o -path "$packages/pyarrow/include" -o -path "$packages/pyarrow/src" \) \
    -prune -exec rm -rf {} +
find "$packages" -type f \( -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' -o -name '*.c' -o -name '*.cpp' \
    -o -name '*.h' -o -name '*.a' \) -delete
# Bytecode that is right by its content, not by a file's date: the root file system is read-only, and layers change
# dates.
"$prefix/bin/python" -m compileall -q -j 0 --invalidation-mode unchecked-hash "$packages" >/dev/null || true
