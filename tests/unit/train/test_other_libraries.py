"""Models of libraries that are not installed by default: trained, registered without pickle, and used.

Run by `make test-slow`, which installs torch (CPU), xgboost, catboost, onnx, onnxruntime and statsmodels.
"""

from __future__ import annotations

import pytest
from model_world import World, feature_rows

pytestmark = pytest.mark.slow

PYTORCH = """
    import polars as pl
    import torch
    from torch import nn

    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
            self.register_buffer("scale", torch.tensor([1000.0, 1.0]))

        def odds(self, features):
            return self.layers(features / self.scale).squeeze(1)

        def forward(self, features):
            return torch.sigmoid(self.odds(features))

    def pytorch(rows: pl.DataFrame, features, label):
        x = torch.from_numpy(rows.select(features).to_numpy().astype("float32"))
        y = torch.from_numpy(rows[label].to_numpy().astype("float32"))
        model = Late()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(200):
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(model.odds(x), y)
            loss.backward()
            optimizer.step()
        return model, {"final_loss": loss.item()}
"""

LIBRARIES = """
    import pandas as pd
    import polars as pl

    NUMBERS = ["distance", "weather__temp"]

    def xgb_classifier(rows: pd.DataFrame, label, seed):
        from xgboost import XGBClassifier

        return XGBClassifier(n_estimators=20, max_depth=3, random_state=seed).fit(rows[NUMBERS], rows[label])

    def xgb_booster(rows: pd.DataFrame, label, seed):
        import xgboost

        data = xgboost.DMatrix(rows[NUMBERS], rows[label])
        return xgboost.train({"objective": "binary:logistic", "seed": seed, "max_depth": 3}, data, 20)

    def catboost(rows: pd.DataFrame, features, label, seed):
        from catboost import CatBoostClassifier

        model = CatBoostClassifier(iterations=30, random_seed=seed, verbose=0, allow_writing_files=False)
        return model.fit(rows[features], rows[label], cat_features=["origin"])

    def onnx(rows: pl.DataFrame, label):
        import onnx
        from onnx import TensorProto, helper

        # score = sigmoid(distance / 400 - 2.5), written down by hand.
        nodes = [
            helper.make_node("Mul", ["distance", "slope"], ["scaled"]),
            helper.make_node("Add", ["scaled", "shift"], ["odds"]),
            helper.make_node("Sigmoid", ["odds"], ["score"]),
        ]
        constants = [
            helper.make_tensor(name, TensorProto.DOUBLE, [1], [value])
            for name, value in (("slope", 1 / 400), ("shift", -2.5))
        ]
        graph = helper.make_graph(
            nodes, "late",
            [helper.make_tensor_value_info("distance", TensorProto.DOUBLE, ["rows", 1])],
            [helper.make_tensor_value_info("score", TensorProto.DOUBLE, ["rows", 1])],
            constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.checker.check_model(model)
        return model

    def statsmodels(rows: pd.DataFrame, label):
        import statsmodels.api

        return statsmodels.api.Logit(rows[label], rows[["distance"]]).fit(disp=0)
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, mlflow_uri: str) -> World:
    world = World.at(tmp_path_factory.mktemp("libraries"), mlflow_uri)
    world.write("torch_model", PYTORCH)
    world.write("libraries", LIBRARIES)
    world.publish(feature_rows())
    world.publish(feature_rows(), table="two", features=("distance", "night"))
    world.publish(feature_rows(), table="one", features=("distance",))
    return world


@pytest.mark.parametrize(
    ("function", "flavor", "table"),
    [
        ("torch_model:pytorch", "pytorch", "two"),
        ("libraries:xgb_classifier", "xgboost", "rows"),
        ("libraries:xgb_booster", "xgboost", "rows"),
        ("libraries:catboost", "catboost", "rows"),
        ("libraries:onnx", "onnx", "one"),
    ],
)
def test_a_model_is_kept_without_pickle_and_repeatable(
    world: World, function: str, flavor: str, table: str
) -> None:
    name, given, scores = function.partition(":")[2], {"table": {"name": table}}, []
    for attempt in (1, 2):
        result = world.train(name, function, arguments=given, step_key=f"{name}-{attempt}", seed=3)
        assert result.metrics["train_roc_auc"] > 0.65
        version = world.client.get_model_version(name, str(attempt))
        assert version.tags["airflow_ml.flavor"] == flavor
        predicting = {**given, "model": {"name": name, "version": attempt}, "batch_rows": 799}
        world.done("predict", {**predicting, "publish": {"name": f"by_{name}_{attempt}"}})
        predictions = world.table(f"by_{name}_{attempt}").sort("flight_id")
        scores.append(predictions["score"].to_numpy().tobytes())
    assert scores[0] == scores[1]


def test_a_library_whose_models_can_only_be_pickled_is_refused(world: World) -> None:
    arguments = {"function": "libraries:statsmodels", "table": {"name": "rows"}, "model": {"name": "pickled"}}
    failure = world.run("train", arguments).failure
    assert failure is not None
    assert failure.kind == "config"
    assert "(statsmodels) cannot be loaded here" in failure.message
    assert "a model that could only be unpickled is not loaded" in failure.message
