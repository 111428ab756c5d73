"""What our sensors share: they look through a trigger, in the worker or, deferred, in the triggerer."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue
from airflow.sdk.configuration import conf

from airflow_ml_provider.contract.documents import Failure
from airflow_ml_provider.contract.errors import ERRORS_BY_KIND, InfrastructureError, TransientError
from airflow_ml_provider.operators.results import error_of
from airflow_ml_provider.operators.retries import StepRetryPolicy

if TYPE_CHECKING:
    from airflow.sdk import Context, RetryPolicy

    from airflow_ml_provider.triggers.polling import PollingTrigger


class StateSensor(BaseSensorOperator):
    """Waits until a state is as wanted; some failed looks in a row are borne, then it fails.

    :param deferrable: wait in the triggerer instead of in a worker; ``[operators] default_deferrable`` by
        default.
    """

    def __init__(
        self,
        *,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        retry_policy: RetryPolicy | None = StepRetryPolicy(),  # noqa: B008 - it has no state
        **kwargs: Any,
    ) -> None:
        super().__init__(retry_policy=retry_policy, **kwargs)
        self.deferrable = deferrable
        self._failures = 0

    @abstractmethod
    def trigger(self) -> PollingTrigger:
        """The trigger that looks."""

    @abstractmethod
    def output_of(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """What goes to XCom, such that ``.output`` can be passed on to a step."""

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once."""
        from airflow_ml_provider.triggers.polling import MOST_FAILURES

        trigger = self.trigger()
        try:
            state = asyncio.run(trigger.look())
            self._failures = 0
        except TransientError as error:
            self._failures += 1
            if self._failures > MOST_FAILURES:
                raise
            self.log.warning("look %s of %s failed: %s", self._failures, MOST_FAILURES, error.what)
            return PokeReturnValue(False)
        if state is None or not trigger.is_wanted(state):
            return PokeReturnValue(False)
        return PokeReturnValue(True, self.output_of(state))

    def execute(self, context: Context) -> Any:
        """Look in the worker until it is as wanted, or once before deferring."""
        if not self.deferrable:
            return super().execute(context)
        looked = self.poke(context)
        if not looked.is_done:
            wait = timedelta(seconds=self.timeout)
            self.defer(trigger=self.trigger(), method_name="execute_complete", timeout=wait)
        return looked.xcom_value

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """End as the trigger's event says."""
        status = event.get("status")
        if status == "success":
            return self.output_of(event["found"])
        if status == "error" and event.get("kind") in ERRORS_BY_KIND:
            raise error_of(Failure(event["kind"], "", str(event.get("message", ""))))
        raise InfrastructureError(
            f"{self.task_id}: the triggerer sent an event that is not known: {dict(event)!r}"
        )
