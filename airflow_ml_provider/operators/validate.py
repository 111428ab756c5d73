"""A Great Expectations suite over a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_ml_provider.assets import validated_asset
from airflow_ml_provider.contract.arguments import ValidateArguments
from airflow_ml_provider.operators.base import StepOperator
from airflow_ml_provider.operators.events import brief, tell_if
from airflow_ml_provider.operators.references import known_table

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_ml_provider.contract.documents import StepResult, StepSpec
    from airflow_ml_provider.contract.tables import Table
    from airflow_ml_provider.operators.pins import Pins


class ValidateOperator(StepOperator):
    """Checks a pinned version of a table against a suite, and stops the run when it fails.

    Its output stands for the version that was checked. Data Docs are linked from the task. A retry and a
    clear reuse the verdict while the table and the suite are the same.

    :param table: a Table, its name, or an upstream step's ``.output``. (templated)
    :param suite: ``"package.module:name"`` of a suite, or a JSON file beside the code. (templated)
    :param partitions: which partitions to check; all of them when empty. (templated)
    :param fail: False lets the run go on after a failed check; the verdict tells.
    """

    verb = "validate"
    template_fields: Sequence[str] = ("table", "suite", "partitions")
    ui_color = "#e8f5e9"

    def __init__(
        self, *, table: Table | str | Any, suite: str, partitions: str = "", fail: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.table = table
        self.suite = suite
        self.partitions = partitions
        self.fail = fail
        if known := known_table(table):
            self.add_outlet(validated_asset(known))

    def arguments(self, pins: Pins, context: Context) -> ValidateArguments:
        """The step's arguments, with the table pinned."""
        return ValidateArguments(
            table=pins.table(self.table), suite=self.suite, partitions=str(self.partitions), fail=self.fail
        )

    def entry_points(self) -> Iterable[str | None]:
        """The suite."""
        return (self.suite,)

    def adopt(self, result: StepResult, spec: StepSpec) -> StepResult:
        """The verdict for the version that this run reads, in which these rows are the same."""
        if result.table is None:
            return result
        table = msgspec.structs.replace(result.table, version=spec.arguments["table"]["version"])
        return msgspec.structs.replace(result, table=table)

    def announce(self, result: StepResult, context: Context) -> None:
        """An event with the verdict, if the table passed."""
        checked, verdict = result.table, result.verdict
        if checked is None:
            return
        extra = {
            "table": checked.name,
            "version": checked.version,
            "partitions": checked.partitions,
            "rows": checked.rows,
            "step_key": result.step_key,
            "verdict": brief(verdict),
        }
        tell_if(bool(verdict and verdict.get("success")), self, validated_asset(checked.name), extra, context)
