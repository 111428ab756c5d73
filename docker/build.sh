#!/usr/bin/env bash
# Builds the images with docker, podman or buildah, whichever is there (or ENGINE=...).
#
#   docker/build.sh [steps|airflow|mlflow|all] [--code DIR] [--dags DIR] [--extra "REQUIREMENT..."]
#                   [--accelerator cpu|cu126|...] [--prefix HOST/REPOSITORY/] [--tag TAG] [--push] [--kind CLUSTER]
#                   [--print]
#
# --code and --dags are folders of this repository that go into the steps and the Airflow image. --kind loads the
# images into a kind cluster, --push pushes them, --print only shows what would be run.
set -euo pipefail
cd "$(dirname "$0")/.."

images=() code='' dags='' extra='' accelerator=cpu prefix='' tag='' push='' kind='' print=''
while [ $# -gt 0 ]; do
    case $1 in
    steps | airflow | mlflow) images+=("$1") ;;
    all) ;;
    --code) code=$2; shift ;;
    --dags) dags=$2; shift ;;
    --extra) extra=$2; shift ;;
    --accelerator) accelerator=$2; shift ;;
    --prefix) prefix=$2; shift ;;
    --tag) tag=$2; shift ;;
    --kind) kind=$2; shift ;;
    --push) push=yes ;;
    --print) print=yes ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift
done
if [ ${#images[@]} -eq 0 ]; then images=(steps airflow mlflow); fi
for folder in "$code" "$dags"; do
    if [ -n "$folder" ] && [ ! -d "$folder" ]; then
        echo "There is no folder $folder in $PWD: name one of this repository, so that it is in the build context." >&2
        exit 2
    fi
done

engine=${ENGINE:-}
for candidate in docker podman buildah; do
    if [ -z "$engine" ] && command -v "$candidate" >/dev/null; then engine=$candidate; fi
done
if [ -z "$engine" ]; then
    echo "No container engine: install docker, podman or buildah (on Debian: apt install podman), or set ENGINE=..." >&2
    exit 1
fi

run() {
    if [ -n "$print" ]; then echo "$(printf '%q ' "$@")"; else "$@"; fi
}

version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
commit=$(git rev-parse HEAD 2>/dev/null || echo unknown)
if [ -n "$(git status --porcelain 2>/dev/null)" ]; then commit=$commit-modified; fi
for image in "${images[@]}"; do
    name="${prefix}airflow-ml-$image:${tag:-$version}"
    arguments=(--build-arg "COMMIT=$commit" --build-arg "VERSION=$version")
    case $image in
    steps)
        arguments+=(--build-arg "EXTRA_REQUIREMENTS=$extra" --build-arg "ACCELERATOR=$accelerator")
        if [ -n "$code" ]; then arguments+=(--build-arg "CODE=$code"); fi
        ;;
    airflow) if [ -n "$dags" ]; then arguments+=(--build-arg "DAGS=$dags"); fi ;;
    esac
    run "$engine" build --file "docker/$image.Dockerfile" --tag "$name" "${arguments[@]}" .
    if [ -n "$push" ]; then run "$engine" push "$name"; fi
    if [ -n "$kind" ]; then run kind load docker-image "$name" --name "$kind"; fi
done
