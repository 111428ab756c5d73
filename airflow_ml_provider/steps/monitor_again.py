"""Earlier partitions, looked at again once more of their labels have matured.

What was published about them says how many labels had matured at the last look. Drift is not measured again:
features and scores are what they were. Only how the predictions turned out is, and published in their place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from airflow_ml_provider.contract.ages import age_seconds
from airflow_ml_provider.contract.arguments import MonitorArguments
from airflow_ml_provider.contract.documents import ModelVersion
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.identity import document_digest
from airflow_ml_provider.contract.partitions import Partitions, parse_partitions, start_of
from airflow_ml_provider.steps import delta
from airflow_ml_provider.steps.monitor_labels import REPORTED, Performance
from airflow_ml_provider.steps.pinned_tables import PinnedTable

if TYPE_CHECKING:
    from airflow_ml_provider.contract.tables import Table
    from airflow_ml_provider.steps.context import StepContext

_MODEL = ("model_name", "model_version", "model_run_id")


@dataclass(frozen=True)
class Earlier:
    """An earlier partition as its published findings have it.

    :param predicted: rows with a prediction; ``before``: of these, rows whose label had matured then.
    :param lines: its rows of the published table, by column name.
    """

    partition: str
    model: ModelVersion
    predicted: int
    before: int
    lines: tuple[dict[str, Any], ...]

    def lines_with(self, judged: Performance) -> list[dict[str, Any]]:
        """Its published lines with what is known by now of how its predictions turned out."""
        return [{**line, **performance_of(judged)} if line["is_score"] else line for line in self.lines]


def performance_of(judged: Performance) -> dict[str, Any]:
    """The columns of a partition's score that say how its predictions turned out."""
    return {
        "matured": judged.matured,
        "matured_share": judged.share,
        **dict.fromkeys(REPORTED),
        **{name: estimate.value for name, estimate in judged.metrics.items()},
    }


def check(arguments: MonitorArguments) -> None:
    """
    :raises ConfigError: earlier partitions are to be looked at again, and something needed for it is missing.
    """
    if not arguments.revisit:
        return
    age_seconds(arguments.revisit, what="revisit")
    if arguments.publish is None or not arguments.tables:
        raise ConfigError(
            f"revisit={arguments.revisit!r} looks again at what was published, by labels that came since",
            todo="give publish= (the findings' table) and tables= (what the label function reads), too",
        )


class Again:
    """Which earlier partitions a monitor step looks at again.

    A try that was killed after it had published them finds them in its plan, so that the next one says of
    them what that one would have said.

    :param predictions: what was predicted; ``asked``: the partitions that were asked for.
    :param versions: the tables read and their versions.
    """

    def __init__(
        self,
        step: StepContext,
        arguments: MonitorArguments,
        predictions: PinnedTable,
        asked: Partitions,
        versions: Mapping[str, int],
    ) -> None:
        self.step = step
        self.predictions = predictions
        content = document_digest([step.spec.fingerprint, asked.label, versions])
        self._path = f"runs/{step.key}/again-{content[:16]}.json"
        self._plan: dict[str, int] = {}
        self.earlier: dict[str, Earlier] = {}
        if arguments.revisit and arguments.publish:
            self._plan = step.store.read_json(self._path) or {}
            found = self._published(arguments.publish, asked, age_seconds(arguments.revisit, what="revisit"))
            self.earlier = {part.partition: part for part in self._same_predictions(found)}

    def chosen(self, matured: Mapping[str, tuple[int, int]]) -> list[Earlier]:
        """Those of which another number of labels has matured than at the last look, in order.

        :param matured: partition to how many were predicted, and of how many the label has matured now.
        """
        for partition, part in self.earlier.items():
            if matured.get(partition, (0, part.before))[1] != part.before:
                self._plan.setdefault(partition, part.before)
        wanted = [value for value in sorted(self._plan) if value in self.earlier]
        if wanted:
            self.step.store.write_json(self._path, self._plan)
        return [replace(self.earlier[value], before=self._plan[value]) for value in wanted]

    def _published(self, target: Table, asked: Partitions, age: int) -> list[Earlier]:
        """Published partitions of this age at most whose labels had not all matured.

        :raises ConfigError: partitions are no times, so there is no telling which are earlier.
        """
        uri = self.step.store.table_uri(target.name)
        found = delta.find_table(target.name, uri)
        if found is None:
            return []
        table = PinnedTable(target, uri, found)
        by = table.partition_by or "ds"
        newest = max(map(start_of, asked.values))
        oldest = newest - timedelta(seconds=age)
        there = sorted({str(part[by]) for part in found.partitions()} - set(asked.values))
        near = [value for value in there if oldest <= start_of(value) < newest]
        if not near:
            return []
        lines = table.lazy(parse_partitions(near)).collect().partition_by(by, as_dict=True)
        parts = [_earlier(str(value), of_it.drop(by)) for (value,), of_it in sorted(lines.items())]
        return [
            part for part in parts if part and (part.before < part.predicted or part.partition in self._plan)
        ]

    def _same_predictions(self, earlier: Sequence[Earlier]) -> list[Earlier]:
        """Without those that were predicted again since: their findings are about other predictions."""
        if not earlier:
            return []
        by = self.predictions.partition_by or "ds"
        rows = self.predictions.lazy(parse_partitions([part.partition for part in earlier]))
        made = rows.group_by(by, *_MODEL).len().collect(engine="streaming")
        same, other = [], []
        for part in earlier:
            now = made.filter(pl.col(by) == part.partition).drop(by).rows()
            # Beside them may be those of a split's other variants.
            if (part.model.name, part.model.version, part.model.run_id, part.predicted) in now:
                same.append(part)
            elif now:
                other.append(part.partition)
        if other:
            self.step.warn(
                f"{', '.join(other[:10])} was predicted again since it was monitored and is not looked at "
                "again: run the monitor step for it"
            )
        return same


def _earlier(partition: str, lines: pl.DataFrame) -> Earlier | None:
    score = lines.filter("is_score")
    if not score.height:
        return None
    line = score.row(0, named=True)
    model = ModelVersion(line["model_name"], line["model_version"], line["model_run_id"])
    kept = tuple(lines.sort("is_score", "column").iter_rows(named=True))
    return Earlier(partition, model, line["rows"], line["matured"] or 0, kept)
