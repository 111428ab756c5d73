"""Buttons that open what a step left: its MLflow run, its report, its Data Docs, its model.

Airflow asks for a link in the worker, right after the task, and keeps it as an XCom; so the operator notes
the links of its step's result, and these classes only hand them over. A failed step has links too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import attrs
from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


@attrs.define()
class StepLink(BaseOperatorLink):
    """A link that a step's result names."""

    label: ClassVar[str] = ""

    @property
    def name(self) -> str:
        """The text on the button, which is the link's name in the result."""
        return self.label

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The address; empty where the step left none, which leaves the button without effect."""
        links: dict[str, str] = getattr(operator, "step_links", {})
        return links.get(self.label, "")


@attrs.define()
class MlflowRunLink(StepLink):
    """The step's run in MLflow."""

    label: ClassVar[str] = "MLflow run"


@attrs.define()
class ReportLink(StepLink):
    """The step's HTML report."""

    label: ClassVar[str] = "Report"


@attrs.define()
class DataDocsLink(StepLink):
    """The Great Expectations page of a validation."""

    label: ClassVar[str] = "Data Docs"


@attrs.define()
class MadeByLink(StepLink):
    """The task that computed what this one reuses."""

    label: ClassVar[str] = "Made by"


@attrs.define()
class ModelLink(StepLink):
    """The model's version in the MLflow registry."""

    label: ClassVar[str] = "Model"
