"""What is offered to build servers works: the scripts are run as they stand, and paste nothing into a shell."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_airflow import FakeAirflow

from airflow_ml_provider.cli import trigger_options

REPOSITORY = Path(__file__).parents[3]
ACTION = REPOSITORY / ".github/actions/airflow-ml-trigger/action.yml"
GITLAB = REPOSITORY / "docs/ci/gitlab.yml"
JENKINS = REPOSITORY / "docs/ci/Jenkinsfile"
# Would be run, if anything pasted it into a shell.
TRAP = "\"; touch trap; $(touch trap) `touch trap` '; touch trap #"


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    return document


def known_options() -> set[str]:
    commands = argparse.ArgumentParser().add_subparsers()
    trigger_options.add(commands)
    return {option for action in commands.choices["trigger"]._actions for option in action.option_strings}


def jenkins_script() -> str:
    [script] = re.findall(r"sh '''(.*?)'''", JENKINS.read_text(), re.DOTALL)
    return script.replace("\\\n", " ")


@pytest.fixture
def place(tmp_path: Path, airflow: FakeAirflow) -> dict[str, str]:
    """The environment of a job, in which the package is installed already."""
    (tmp_path / "airflow-ml" / "bin").mkdir(parents=True)
    command = tmp_path / "airflow-ml" / "bin" / "airflow-ml"
    command.symlink_to(Path(sys.executable).parent / "airflow-ml")
    airflow.script = airflow.script[-1:]
    return {
        "PATH": f"{command.parent}{os.pathsep}/usr/bin:/bin",
        "RUNNER_TEMP": str(tmp_path),
        "WORKSPACE_TMP": str(tmp_path),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        "AIRFLOW_ML_URL": airflow.url,
        "AIRFLOW_ML_USER": "ci",
        "AIRFLOW_ML_PASSWORD": "s3cret-word",
    }


def execute(script: str, env: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("path", [ACTION, GITLAB, JENKINS])
def test_every_option_that_is_used_exists(path: Path) -> None:
    text = path.read_text()
    [command] = re.findall(r"trigger (--wait.*?) -- \"\$DAG\"", text, re.DOTALL)
    options = set(re.findall(r"(?<!\S)(--[a-z-]+)", command))
    assert "--key" in options
    assert options <= known_options()


def test_no_input_of_the_action_stands_in_a_script() -> None:
    document = read(ACTION)
    assert document["runs"]["using"] == "composite"
    for step in document["runs"]["steps"]:
        assert "${{" not in step["run"]
    used = re.findall(r"\$\{\{ inputs\.([a-z-]+) \}\}", ACTION.read_text())
    assert set(used) == set(document["inputs"])


def action_step(number: int, inputs: dict[str, str]) -> tuple[str, dict[str, str]]:
    """A step's script and environment, as the runner would fill them in."""
    document = read(ACTION)
    values = {name: given.get("default", "") for name, given in document["inputs"].items()} | inputs
    step = document["runs"]["steps"][number]
    env = {
        name: re.sub(r"\$\{\{ inputs\.([a-z-]+) \}\}", lambda found: values[found[1]], text)
        for name, text in step["env"].items()
    }
    return step["run"], env


@pytest.mark.parametrize("gates", ["roc_auc>=0.74\nverdict==promote\n", ""])
def test_the_action_runs_a_dag_and_shows_its_report(
    airflow: FakeAirflow, place: dict[str, str], tmp_path: Path, gates: str
) -> None:
    inputs = {"dag": "train", "url": airflow.url, "user": "ci", "password": "s3cret-word", "gates": gates,
              "key": TRAP, "params": '{"until": "2013-04-30"}'}  # fmt: skip
    for number in (1, 2):
        script, env = action_step(number, inputs)
        done = execute(script, place | env, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "### ✅ `train`" in (tmp_path / "summary.md").read_text()
    [run] = airflow.runs.values()
    assert run.document["conf"] == {"until": "2013-04-30"}
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("name", ["dag", "gates", "params", "partition", "timeout", "ca"])
def test_an_input_with_shell_in_it_is_a_value_or_refused(
    airflow: FakeAirflow, place: dict[str, str], tmp_path: Path, name: str
) -> None:
    inputs = {"dag": "train", "url": airflow.url, "user": "ci", "password": "s3cret-word"}
    script, env = action_step(1, inputs | {name: TRAP})
    done = execute(script, place | env, tmp_path)
    assert done.returncode in ((0,) if name == "partition" else (2, 64))
    assert not (tmp_path / "trap").exists()


def test_the_gitlab_template_runs_a_dag_and_keeps_its_reports(
    airflow: FakeAirflow, place: dict[str, str], tmp_path: Path
) -> None:
    [job] = read(GITLAB).values()
    [script] = job["script"]
    env = (
        place
        | job["variables"]
        | {"DAG": "train", "GATES": "verdict==promote\n", "KEY": "group/project@c0ffee"}
    )
    done = execute(script, env, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / job["artifacts"]["reports"]["junit"]).exists()
    assert all((tmp_path / path).exists() for path in job["artifacts"]["paths"])


def test_the_jenkins_snippet_runs_a_dag_and_keeps_its_reports(
    airflow: FakeAirflow, place: dict[str, str], tmp_path: Path
) -> None:
    script = "\n".join(
        line for line in jenkins_script().splitlines() if "pip" not in line and "venv" not in line
    )
    env = place | {"DAG": "train", "PARAMS": "", "GATES": "roc_auc>=0.9", "JOB_NAME": "j", "GIT_COMMIT": "c"}
    done = execute(script, env, tmp_path)
    assert done.returncode == 3, done.stdout + done.stderr
    for name in re.findall(r"(?:testResults|artifacts): '([^']+)'", JENKINS.read_text()):
        assert (tmp_path / name).exists()
