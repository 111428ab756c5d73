"""The values are closed, documented, and say what is wrong with them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import helm_python
import pytest
import yaml

from .conftest import CHART, REPOSITORY, VARIATIONS, Render

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"mlfow": {}}, "mlfow"),
        ({"mlflow": {"replica": 2}}, "replica"),
        ({"mlflow": {"auth": {"password": "secret"}}}, "password"),
        ({"mlflow": {"replicas": "two"}}, "replicas"),
        ({"mlflow": {"artifacts": {"type": "disk"}}}, "type"),
        ({"mlflow": {"artifacts": {"s3": {"uri": "s3://user:password@bucket"}}}}, "uri"),
        ({"mlflow": {"resources": {"request": {}}}}, "request"),
        ({"postgresql": {"external": {"password": "secret"}}}, "password"),
        ({"steps": {"quota": {"hard": {"cpu": [1]}}}}, "cpu"),
        ({"airflow": {"serviceAccounts": []}}, "serviceAccounts"),
        ({"networkPolicies": {"egress": []}}, "egress"),
        ({"kueue": {"apiVersion": "v1"}}, "apiVersion"),
        ({"spark": {"apiServerPorts": []}}, "apiServerPorts"),
    ],
)
def test_a_mistake_in_the_values_is_refused_by_name(
    render: Render, values: dict[str, Any], says: str
) -> None:
    with pytest.raises(helm_python.HelmError, match=says):
        render(values)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"steps": {"namespace": {"create": True}}}, "--create-namespace"),
        ({"postgresql": {"enabled": False}}, "postgresql.external.host"),
        (
            {"postgresql": {"enabled": False, "external": {"host": "db"}}},
            "postgresql.external.existingSecret",
        ),
        ({"mlflow": {"artifacts": {"type": "s3"}}}, "mlflow.artifacts.s3.uri"),
        ({"mlflow": {"replicas": 2}}, "ReadWriteMany"),
    ],
)
def test_values_that_do_not_go_together_are_refused_with_what_to_do(
    render: Render, values: dict[str, Any], says: str
) -> None:
    with pytest.raises(helm_python.HelmError, match=says):
        render(values)


# Maps whose keys are the user's or Kubernetes' own.
FREE = {"labels", "quantities", "affinity", "valueFrom", "global", "objects"}


def nodes(schema: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    if isinstance(schema, dict):
        if "type" in schema:
            yield path, schema
        for key, value in schema.items():
            yield from nodes(value, (*path, key))


def test_the_schema_is_closed_everywhere_but_in_free_maps() -> None:
    closed = 0
    for path, schema in nodes(SCHEMA):
        if (
            schema["type"] == "object"
            and path[-1:]
            and path[-1] not in FREE
            and path[-2:] != ("objects", "items")
        ):
            if path[-1] == "items" and "properties" not in schema:
                continue
            assert schema.get("additionalProperties") is False, "/".join(path)
            closed += 1
    assert SCHEMA["additionalProperties"] is False
    assert closed > 20


def test_every_value_has_a_place_in_the_schema_and_every_place_a_default() -> None:
    def resolve(schema: dict[str, Any]) -> dict[str, Any]:
        return {**schema, **SCHEMA["$defs"][schema["$ref"].split("/")[-1]]} if "$ref" in schema else schema

    def same(values: Any, schema: dict[str, Any], path: str) -> None:
        properties = resolve(schema).get("properties")
        if properties is None or not isinstance(values, dict):
            return
        names = set(properties) - {"global", "claims"}
        optional = {"pullSecrets", "pullPolicy"} if path.endswith(".image") else set()
        optional |= {"requests", "limits"} if path.endswith(".resources") else set()
        assert set(values) <= names, path
        assert names - set(values) <= optional, path
        for name, value in values.items():
            same(value, properties[name], f"{path}.{name}")

    same(VALUES, SCHEMA, "values")


def test_every_section_of_the_values_is_explained() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"[a-zA-Z]+:", line):
            assert lines[number - 1].startswith("#"), line


def test_values_files_that_are_shipped_are_used_here() -> None:
    shipped = {path.name for path in (REPOSITORY / "helm").glob("*values.yaml")}
    assert shipped == {"laptop-values.yaml", "airflow-values.yaml", "airflow-laptop-values.yaml"}
    assert VARIATIONS["laptop"]
