"""A security scan of the chart in all its variations and of the Dockerfiles; exceptions have reasons."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import REPOSITORY, VARIATIONS


def checkov(folder: Path) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(REPOSITORY / "helm/checkov.sh"), "--directory", str(folder)]
    # It is installed by the Python of the tests, whichever environment that is from.
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


@pytest.mark.slow
def test_the_scan_finds_nothing_that_has_no_reason(chart: Any, tmp_path: Path) -> None:
    for number, values in enumerate(VARIATIONS.values()):
        files = chart.render(values, name="ml", namespace="ml")
        objects = "\n---\n".join(text for path, text in files.items() if path.endswith(".yaml"))
        (tmp_path / f"{number}.yaml").write_text(objects)
    for file in (REPOSITORY / "docker").glob("*.Dockerfile"):
        shutil.copy(file, tmp_path)
    done = checkov(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_scan_does_find_things(tmp_path: Path) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a", "namespace": "b"},
        "spec": {"containers": [{"name": "c", "image": "d", "securityContext": {"privileged": True}}]},
    }
    (tmp_path / "pod.yaml").write_text(yaml.safe_dump(pod))
    done = checkov(tmp_path)
    assert done.returncode == 1
    assert "privileged" in done.stdout


def test_every_exception_of_the_scan_has_a_reason() -> None:
    lines = (REPOSITORY / "helm/checkov.yaml").read_text().splitlines()
    exceptions = [number for number, line in enumerate(lines) if re.match(r"  - CKV", line)]
    assert exceptions
    assert all(lines[number - 1].startswith("  #") for number in exceptions)
