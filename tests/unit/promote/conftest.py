"""What the tests of promotions and rollbacks share: a world, and a model of their own in MLflow."""

from __future__ import annotations

import pytest
from champions import Registry
from model_world import World

from airflow_ml_provider.contract.identity import digest


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, mlflow_uri: str) -> World:
    return World.at(tmp_path_factory.mktemp("promote"), mlflow_uri)


@pytest.fixture
def registry(world: World, request: pytest.FixtureRequest) -> Registry:
    return Registry(world, digest(request.node.name)[:12])
