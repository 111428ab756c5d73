"""Gates and report read what real evaluate and promote steps return."""

from __future__ import annotations

from typing import Any

import pytest
from model_world import World, feature_rows

from airflow_ml_provider.cli import markdown
from airflow_ml_provider.cli.conditions import Outputs, judge, parse_condition
from airflow_ml_provider.cli.trigger_story import Story

MODEL = "triggered_from_ci"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory, mlflow_uri: str) -> dict[str, Any]:
    """A training with a champion to beat, by task id."""
    world = World.at(tmp_path_factory.mktemp("trigger"), mlflow_uri)
    world.publish(feature_rows(days=8))
    trained = [world.train(MODEL, function, "2013-01-01..2013-01-04") for function in ("linear", "boosted")]
    verdict = {
        "candidate": {"name": MODEL, "version": 2},
        "champion": {"name": MODEL, "version": 1},
        "table": {"name": "rows"},
        "partitions": "2013-01-05..2013-01-08",
        "gates": [{"metric": "roc_auc", "at_least": 0.99}],
        "slices": ["origin"],
        "resamples": 60,
    }
    evaluated = world.done("evaluate", verdict)
    promoted = world.done("promote", {"verdict": evaluated.manifest(), "promoted_by": "ci"})
    return {"train": trained[1].manifest(), "evaluate": evaluated.manifest(), "promote": promoted.manifest()}


def test_gates_find_metrics_the_decision_and_what_became_of_it(outputs: dict[str, Any]) -> None:
    found = Outputs(outputs)
    auc = outputs["evaluate"]["verdict"]["metrics"]["roc_auc"]["value"]
    for text in (f"roc_auc>={auc - 1e-9}", "verdict==reject", "verdict.promoted==false", "log_loss<5",
                 "evaluate.verdict.metrics.roc_auc.low<0.99", "evaluate.model.version==2"):  # fmt: skip
        judged = judge(parse_condition(text), found)
        assert judged.passed, f"{judged.condition}: {judged.reason}"
    assert not judge(parse_condition("verdict==promote"), found).passed


def test_the_report_shows_the_candidate_beside_the_champion(outputs: dict[str, Any]) -> None:
    report = markdown.document(
        Story("train", "r", "https://airflow.example/r", state="success", outputs=outputs)
    )
    verdict = outputs["evaluate"]["verdict"]
    cells = [f"{verdict[part]['roc_auc']['value']:.4f}" for part in ("metrics", "champion_metrics")]
    [line] = [line for line in report.splitlines() if line.startswith("| `roc_auc` |")]
    assert all(cell in line for cell in cells)
    assert line.count(" to ") == 3
    assert f"{MODEL.replace('_', chr(92) + '_')} version 2 against champion version 1" in report
    assert "| ❌ | `roc_auc >= 0.99` |" in report
    assert "`origin = " in report
    assert outputs["evaluate"]["links"]["Report"].split("(")[0] in report
