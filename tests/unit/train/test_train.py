"""Train, against a real MLflow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from model_tables import MODELS, feature_rows, publish_rows

from airflow_ml_provider.contract.documents import StepResult

RunStep = Callable[..., StepResult]


def arguments(function: str = "mymodels:linear", model: str = "delays", **more: Any) -> dict[str, Any]:
    return {"function": function, "table": {"name": "rows"}, "model": {"name": model}, **more}


@pytest.fixture
def train(run_step: RunStep, user_code: Callable[..., str], mlflow_uri: str) -> RunStep:
    user_code(mymodels=MODELS)

    def run(function: str = "mymodels:linear", model: str = "delays", **more: Any) -> StepResult:
        keys = {k: more.pop(k) for k in ("seed", "step_key", "fingerprint", "code_digest") if k in more}
        return run_step("train", arguments(function, model, **more), mlflow=mlflow_uri, **keys)

    return run


def test_smoke(train, store):
    publish_rows(store, feature_rows())
    for f in ("linear", "boosted", "linear_and_metrics"):
        result = train(f"mymodels:{f}", params={"C": 0.5} if "lin" in f else {})
        print(result)
        assert result.status == "success", result.failure
