"""Which failures are tried again."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk import DAG, ExceptionRetryPolicy
from airflow.sdk.definitions.retry_policy import RetryAction

from airflow_ml_provider.contract.errors import (
    ConfigError,
    DataError,
    InfrastructureError,
    PreemptedError,
    TransientError,
    UserCodeError,
)
from airflow_ml_provider.operators import TrainOperator
from airflow_ml_provider.operators.retries import StepRetryPolicy
from airflow_ml_provider.sensors import TablePartitionSensor

MODEL: dict[str, Any] = {"function": "m:f", "table": "t", "model": "m"}


@pytest.mark.parametrize("kind", [ConfigError, UserCodeError, DataError])
def test_what_cannot_succeed_is_not_tried_again(kind: type[Exception]) -> None:
    decision = StepRetryPolicy().evaluate(kind("no"), 1, 3)
    assert decision.action is RetryAction.FAIL
    assert "not retried" in str(decision.reason)


@pytest.mark.parametrize("kind", [TransientError, InfrastructureError, PreemptedError])
def test_what_may_succeed_is_tried_again_with_the_tasks_own_delay(kind: type[Exception]) -> None:
    decision = StepRetryPolicy().evaluate(kind("busy"), 1, 3)
    assert decision.action is RetryAction.RETRY
    assert decision.retry_delay is None


def test_other_exceptions_are_left_to_airflow() -> None:
    assert StepRetryPolicy().evaluate(RuntimeError("?"), 1, 3).action is RetryAction.DEFAULT


def test_the_authors_policy_wins_wherever_it_is_given() -> None:
    mine, ours = ExceptionRetryPolicy(rules=[]), ExceptionRetryPolicy(rules=[])
    with DAG("a_dag", default_args={"retry_policy": ours}):
        assert TrainOperator(task_id="a", **MODEL).retry_policy is ours
        assert TrainOperator(task_id="b", retry_policy=mine, **MODEL).retry_policy is mine
    with DAG("another_dag"):
        assert isinstance(TrainOperator(task_id="a", **MODEL).retry_policy, StepRetryPolicy)
        assert isinstance(TablePartitionSensor(task_id="s", table="t").retry_policy, StepRetryPolicy)
        mapped = TrainOperator.partial(task_id="m", **MODEL).expand(hyperparameters=[{"a": 1}])
        assert isinstance(mapped.retry_policy, StepRetryPolicy)
        assert TrainOperator(task_id="none", retry_policy=None, **MODEL).retry_policy is None
