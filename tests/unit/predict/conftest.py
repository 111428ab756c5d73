"""A champion, a challenger, and rows to predict."""

from __future__ import annotations

import pytest
from model_world import World, feature_rows


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, mlflow_uri: str) -> World:
    """Champion of ``delays`` is version 1, linear; version 2 is boosted. Rows to predict have no labels."""
    world = World.at(tmp_path_factory.mktemp("predict"), mlflow_uri)
    world.publish(feature_rows())
    world.train("delays", "linear")
    world.train("delays", "boosted")
    world.client.set_registered_model_alias("delays", "champion", "1")
    world.publish(feature_rows(labels=False), table="fresh")
    return world
