"""When a failed step is tried again: only when its kind of failure says that this can help."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import RetryDecision, RetryPolicy

from airflow_ml_provider.contract.errors import MLError

if TYPE_CHECKING:
    from airflow.sdk import Context


class StepRetryPolicy(RetryPolicy):
    """Fails at once on errors of configuration, user code and data; all others use the task's ``retries``.

    It is the default of every step operator; a ``retry_policy`` of the DAG author's replaces it.
    """

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """What to do about a failure; Airflow asks in the worker, with the exception itself."""
        if not isinstance(exception, MLError):
            return RetryDecision.default()
        reason = f"{exception.kind} error: {exception.retry}"
        return (
            RetryDecision.retry(reason=reason) if exception.retryable else RetryDecision.fail(reason=reason)
        )

    def __repr__(self) -> str:
        return "StepRetryPolicy()"
