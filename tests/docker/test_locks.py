"""The images' locks are parts of requirements.lock, whole ones."""

from __future__ import annotations

import re
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[2]
OUTDATED = "run `make lock`"


def lock(path: str) -> dict[str, str]:
    """Name to its version, marker and hashes."""
    text = re.sub(r"^ *#.*\n", "", (REPOSITORY / path).read_text(), flags=re.M)
    blocks = re.findall(r"^([A-Za-z0-9._-]+)==(.*(?:\n    --hash=.*)*)", text, re.M)
    return {canonicalize_name(name): rest for name, rest in blocks}


def version(rest: str) -> str:
    return re.split(r"[ ;\\]", rest)[0]


def hashes(rest: str) -> set[str]:
    return set(re.findall(r"sha256:[0-9a-f]{64}", rest))


def needed_by(name: str, extras: frozenset[str]) -> set[str]:
    """What a distribution that is installed here needs here, all the way down."""
    found: set[str] = set()
    todo = [(name, extras)]
    seen = set()
    while todo:
        one = todo.pop()
        if one in seen:
            continue
        seen.add(one)
        for text in requires(one[0]) or ():
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*one[1], "")):
                found.add(canonicalize_name(requirement.name))
                todo.append((requirement.name, frozenset(requirement.extras)))
    return found


@pytest.mark.parametrize("image", ["steps", "airflow", "mlflow"])
def test_an_image_has_the_versions_that_the_tests_run_with(image: str) -> None:
    everything, own = lock("requirements.lock"), lock(f"docker/{image}-requirements.lock")
    assert own
    assert all(hashes(rest) for rest in own.values())
    shared = own.keys() & everything.keys()
    differing = {
        name: (version(own[name]), version(everything[name]))
        for name in shared
        if version(own[name]) != version(everything[name]) or hashes(own[name]) != hashes(everything[name])
    }
    assert differing == {}, OUTDATED
    # Flask-WTF and what it needs are MLflow's users and passwords, which no test has.
    assert own.keys() - shared <= ({"flask-wtf", "wtforms"} if image == "mlflow" else set()), OUTDATED


def test_the_steps_image_has_all_that_the_data_plane_needs_and_no_airflow() -> None:
    own = lock("docker/steps-requirements.lock")
    needed = needed_by("airflow-ml-provider", frozenset({"lightgbm"}))
    assert needed - own.keys() == set(), OUTDATED
    assert [name for name in own if "airflow" in name or name in ("mlflow", "kubernetes")] == []


def test_locks_name_no_index() -> None:
    for path in (REPOSITORY / "docker").glob("*.lock"):
        assert "://" not in path.read_text(), path.name
