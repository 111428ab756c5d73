"""What a verb is given to work with, and what it gives back."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.contract.documents import ModelVersion, Publication, StepSpec
from airflow_ml_provider.contract.partitions import Partitions, parse_partitions
from airflow_ml_provider.contract.store import Store

if TYPE_CHECKING:
    from airflow_ml_provider.contract.tables import Table
    from airflow_ml_provider.steps.pinned_tables import PinnedTable
    from airflow_ml_provider.steps.progress import Progress
    from airflow_ml_provider.steps.tracking import Tracker

log = logging.getLogger("airflow_ml_provider.steps")


class Skipped(Exception):
    """There is nothing to do, which is no failure: no input for this partition, say."""


@dataclass
class Outcome:
    """What a verb gives back; the fields are those of :class:`~..contract.documents.StepResult`."""

    table: Publication | None = None
    tables: dict[str, Publication] = field(default_factory=dict)
    model: ModelVersion | None = None
    verdict: dict[str, Any] | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    mlflow_run_id: str = ""
    timely: bool = False


class StepContext:
    """One step while it runs.

    :param spec: what to do.
    :param scratch: an empty folder on local disk, removed when the step ends.
    """

    def __init__(self, spec: StepSpec, scratch: Path) -> None:
        self.spec = spec
        self.scratch = scratch
        self.store = Store(spec.store)
        self.log = log
        self.warnings: list[str] = []
        # What an audit of the rows to be published found; part of the result, and so of the asset's event.
        self.audit_verdict: dict[str, Any] | None = None
        self.audit_links: dict[str, str] = {}

    @property
    def key(self) -> str:
        """The step key: the same over all tries."""
        return self.spec.step_key

    @cached_property
    def tracker(self) -> Tracker:
        """MLflow; imported on first use, since that takes seconds."""
        from airflow_ml_provider.steps.tracking import Tracker

        return Tracker(self.spec)

    def read(self, table: Table) -> PinnedTable:
        """Open a table at its pinned version (the newest, if the spec was written by hand without one)."""
        from airflow_ml_provider.steps.pinned_tables import open_table

        return open_table(self.store, table)

    def partitions(self, text: str) -> Partitions | None:
        """The partitions to work on; None means the whole table."""
        return parse_partitions(text) if text.strip() else None

    def warn(self, message: str) -> None:
        """Something a person should know that does not fail the step; shown in the result too."""
        self.log.warning(message)
        self.warnings.append(message)

    def progress(self, what: str, total: int | None = None) -> Progress:
        """A count of what a long loop does, for people: ``with step.progress("rows", n) as progress``."""
        from airflow_ml_provider.steps.progress import Progress, record

        return Progress(what, total, keep=partial(record, self))

    def keep_document(self, name: str, content: bytes) -> str:
        """Keep a report or verdict with the step's run; gives its URI."""
        return self.store.write(f"runs/{self.key}/{name}", content)
