"""The values laid over the official Airflow chart agree with this chart and with the provider."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from airflow_ml_provider.compute import KubernetesCompute
from airflow_ml_provider.get_provider_info import get_provider_info

from .conftest import CHART, REPOSITORY, VARIATIONS, Render, find


def values(*names: str) -> dict[str, Any]:
    """Values files, one over the other as Helm lays them."""
    merged: dict[str, Any] = {}

    def lay(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
        both = {**below, **above}
        for key in below.keys() & above.keys():
            if isinstance(below[key], dict) and isinstance(above[key], dict):
                both[key] = lay(below[key], above[key])
        return both

    for name in names:
        merged = lay(merged, yaml.safe_load((REPOSITORY / "helm" / name).read_text()))
    return merged


AIRFLOW = values("airflow-values.yaml")
LAPTOP = values("airflow-values.yaml", "airflow-laptop-values.yaml")


@pytest.mark.parametrize(("airflow", "variation"), [(AIRFLOW, "defaults"), (LAPTOP, "laptop")])
def test_the_compute_names_what_the_chart_makes(
    render: Render, airflow: dict[str, Any], variation: str
) -> None:
    objects = render(VARIATIONS[variation])
    compute = KubernetesCompute(**json.loads(airflow["config"]["ml"]["kubernetes"]))
    account = find(objects, "ServiceAccount", compute.service_account)
    assert account["metadata"]["namespace"] == compute.namespace
    for claim in compute.volumes.values():
        assert find(objects, "PersistentVolumeClaim", str(claim))
    for volume in airflow.get("volumes", ()):
        assert find(objects, "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
    secret = find(objects, "Secret", "ml-airflow-connections")
    assert secret["metadata"]["name"] in airflow["extraEnvFrom"]


@pytest.mark.parametrize("airflow", [AIRFLOW, LAPTOP])
def test_the_section_of_the_configuration_is_the_providers(airflow: dict[str, Any]) -> None:
    section = airflow["config"]["ml"]
    assert set(section) <= {*get_provider_info()["config"]["ml"]["options"], "kubernetes"}
    assert section["compute"] == "kubernetes"
    # The chart renders each option as a template, where two braces would begin an action.
    assert all("{{" not in value for value in section.values())


def test_the_images_are_those_of_this_version() -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    lock = (REPOSITORY / "requirements.lock").read_text()
    assert AIRFLOW["images"]["airflow"]["tag"] == version
    assert json.loads(AIRFLOW["config"]["ml"]["kubernetes"])["image"].endswith(f":{version}")
    assert f"apache-airflow=={AIRFLOW['airflowVersion']} " in lock


def test_a_volume_is_mounted_where_the_store_says_it_is() -> None:
    compute = json.loads(LAPTOP["config"]["ml"]["kubernetes"])
    path = LAPTOP["config"]["ml"]["store"].removeprefix("file://")
    assert [mount["mountPath"] for mount in LAPTOP["volumeMounts"]] == [path] == list(compute["volumes"])


def test_no_value_is_a_password() -> None:
    for name in ("airflow-values.yaml", "airflow-laptop-values.yaml", "laptop-values.yaml"):
        text = (REPOSITORY / "helm" / name).read_text()
        assert not re.search(r"(?i)(password|secret_?key|token): *\S", re.sub(r"#.*", "", text)), name


def test_the_documentation_names_files_and_values_that_exist() -> None:
    page = (REPOSITORY / "docs/helm.md").read_text()
    for path in set(re.findall(r"(?:helm|docker|docs)/[\w./-]*\w", page)):
        assert (REPOSITORY / path).exists(), path
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    for name in set(re.findall(r"`((?:\w+\.)+\w+)(?:: \w+)?`", page)):
        value: Any = defaults
        if name.split(".")[0] in defaults:
            for part in name.split("."):
                value = value[part]
