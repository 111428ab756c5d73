"""The CI workflow runs what a contributor runs, and asks for no more than it needs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[3]
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (REPOSITORY / "Makefile").read_text()
TARGETS = frozenset(re.findall(r"^([a-z][a-z0-9-]*):", MAKEFILE, re.MULTILINE))


def read(path: Path) -> dict[str, Any]:
    # In YAML 1.1 a key `on` is true; it is not needed here.
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    return document


def steps(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """All steps, with the name of their job."""
    return [(name, step) for name, job in read(path)["jobs"].items() for step in job["steps"]]


def commands(path: Path) -> list[list[str]]:
    """The commands of all steps, in words."""
    return [
        line.split()
        for _, step in steps(path)
        for line in step.get("run", "").splitlines()
        if line.strip() and not line.lstrip().startswith("#")
    ]


def test_there_is_a_workflow() -> None:
    assert [path.name for path in WORKFLOWS] == ["ci.yml"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_calls_only_make_targets_that_exist(path: Path) -> None:
    called = {words[1] for words in commands(path) if words[0] == "make"}
    assert called <= TARGETS
    assert {"test", "test-slow", "lint-helm", "test-k8s"} <= called


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_variables_that_a_workflow_gives_to_make_are_used_by_it(path: Path) -> None:
    given = {
        word.partition("=")[0]
        for words in commands(path)
        if words[0] == "make"
        for word in words[2:]
        if "=" in word
    }
    assert given
    assert {name for name in given if f"$({name})" in MAKEFILE} == given


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_scripts_that_a_workflow_calls_exist(path: Path) -> None:
    scripts = [words[0] for words in commands(path) if "/" in words[0]]
    assert "docker/build.sh" in scripts
    for script in scripts:
        assert (REPOSITORY / script).is_file(), script


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_only_read_and_each_job_ends(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert "concurrency" in workflow
    for name, job in workflow["jobs"].items():
        assert 0 < job["timeout-minutes"] <= 90, name
        assert "permissions" not in job, name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_their_major_version(path: Path) -> None:
    used = [step["uses"] for _, step in steps(path) if "uses" in step]
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", action), action


def test_the_tests_run_over_the_versions_of_python_that_the_package_names() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    named = [
        found[1]
        for line in project["classifiers"]
        if (found := re.fullmatch(r"Programming Language :: Python :: (\d+\.\d+)", line))
    ]
    matrix = read(REPOSITORY / ".github" / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == named
