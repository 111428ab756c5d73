"""A failure while Spark computes is the user's, the store's or the cluster's; only the first is not retried."""

from __future__ import annotations

import pytest

from airflow_ml_provider.contract.errors import InfrastructureError, TransientError, UserCodeError
from airflow_ml_provider.steps.spark_errors import blame

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
pytest.importorskip("pyspark", reason="pyspark is installed in .venv-slow only: make test-slow")


def visited() -> None:
    """A user's function."""


def test_what_an_executor_says_of_the_frame_is_the_functions_doing() -> None:
    from pyspark.errors import PythonException

    with pytest.raises(UserCodeError, match="visited raised PythonException") as raised, blame(visited):
        raise PythonException("ValueError: no such page")
    assert not raised.value.retryable


def test_a_store_that_an_executor_could_not_write_to_is_worth_a_retry() -> None:
    from pyspark.errors import PythonException

    told = "Traceback (most recent call last):\nairflow_ml_provider.contract.errors.TransientError: could not write x"
    with pytest.raises(TransientError, match="an executor of Spark could not write x"), blame(visited):
        raise PythonException(told)


def test_a_lost_executor_is_nobodys_function_and_worth_a_retry() -> None:
    from py4j.protocol import Py4JError

    told = "An error occurred while calling o1.\norg.apache.spark.SparkException: Lost executor 3"
    with pytest.raises(InfrastructureError, match="Lost executor 3") as raised, blame(visited):
        raise Py4JError(told)
    assert raised.value.retryable
