"""Monitor in shards: each counts the rows and scores of some files into the references' bins.

Counts add up, so that the findings are the same for any number of shards. What is not a sum is not cut: which
model predicted what, the labels, the verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.contract.documents import ModelVersion
from airflow_ml_provider.contract.errors import InfrastructureError
from airflow_ml_provider.contract.identity import document_digest
from airflow_ml_provider.contract.partitions import parse_partitions
from airflow_ml_provider.contract.shards import Shards
from airflow_ml_provider.steps import shard_files, sharding
from airflow_ml_provider.steps.context import Skipped
from airflow_ml_provider.steps.monitor_compare import Comparer, Scored, Tallies, groups_of
from airflow_ml_provider.steps.monitor_reference import Reference
from airflow_ml_provider.steps.profiles import add_tallies

if TYPE_CHECKING:
    from airflow_ml_provider.contract.arguments import MonitorArguments
    from airflow_ml_provider.steps.context import StepContext

_ROWS, _PREDICTIONS = "rows", "predictions"


def plan_shards(step: StepContext, arguments: MonitorArguments, shards: int) -> Sequence[dict[str, Any]]:
    """The files of both tables, model by model, in runs of about the same size."""
    comparer = Comparer(step, arguments, step.read(arguments.predictions), step.read(arguments.rows))
    scored = comparer.scored(step.partitions(arguments.partitions))
    if not scored:
        raise Skipped(f"table {comparer.predictions.name!r} has no predictions")
    groups = groups_of(scored)
    sizes: dict[tuple[int, str, str], int] = {}
    for number, group in enumerate(groups):
        partitions = parse_partitions([each.partition for each in group])
        for kind, table in ((_ROWS, comparer.rows), (_PREDICTIONS, comparer.predictions)):
            sizes |= {(number, kind, path): size for path, size in table.sizes(partitions).items()}
    of = _mark(comparer, groups)
    return [_shard(of, comparer, groups, files) for files in shard_files.cut(sizes, shards)]


def _shard(
    of: str, comparer: Comparer, groups: list[list[Scored]], files: list[tuple[int, str, str]]
) -> dict[str, Any]:
    parts: dict[int, dict[str, Any]] = {}
    for number, kind, path in files:
        model = groups[number][0].model
        part = parts.setdefault(number, {
            "group": number,
            "model": [model.name, model.version, model.run_id],
            "partitions": [each.partition for each in groups[number]],
            _ROWS: [],
            _PREDICTIONS: [],
        })  # fmt: skip
        part[kind].append(path)
    versions = {_ROWS: comparer.rows.version, _PREDICTIONS: comparer.predictions.version}
    return {"of": of, "versions": versions, "parts": list(parts.values())}


def run_shard(step: StepContext, arguments: MonitorArguments, shard: dict[str, Any]) -> dict[str, Any]:
    """Count the rows of some files."""
    versions = shard["versions"]
    given = []
    with step.progress("rows") as progress:
        for part in shard["parts"]:
            predictions, rows = (
                replace(step.read(table.at(versions[kind])), only=tuple(part[kind]))
                for kind, table in ((_PREDICTIONS, arguments.predictions), (_ROWS, arguments.rows))
            )
            comparer = Comparer(step, arguments, predictions, rows)
            model = ModelVersion(*part["model"])
            reference = Reference.of(step, model, arguments.ignore)
            frame = rows.lazy(parse_partitions(part["partitions"]))
            made_by = dict.fromkeys(part["partitions"], model)
            tallies = comparer.tally(reference, frame, made_by, progress.advance)
            given.append({"group": part["group"], "bins": _bins(reference), **tallies._asdict()})
    # The step looks at the references too, and says once what is to be said of them.
    step.warnings.clear()
    return {"parts": given}


class ShardTallies:
    """The counts that the shards of a step give; they are run when the first is asked for."""

    def __init__(self, comparer: Comparer, scored: Sequence[Scored]) -> None:
        self._comparer = comparer
        self._of = _mark(comparer, groups_of(scored))
        self._given: list[dict[str, Any]] | None = None

    def of(self, group: int, reference: Reference) -> Tallies:
        """The counts of a group of partitions, by its number in ``groups_of``.

        :raises InfrastructureError: some were counted into other bins than those of the reference.
        :raises MLError: a shard failed.
        """
        step, arguments = self._comparer.step, self._comparer.arguments
        if self._given is None:
            self._given = sharding.given_by_shards(step, arguments, self._of)
        found = [
            (number, part)
            for number, each in enumerate(self._given)
            for part in each["parts"]
            if part["group"] == group
        ]
        bins = _bins(reference)
        if differing := sorted({number for number, part in found if part["bins"] != bins}):
            shards = Shards(step.store, step.spec, arguments.shards)
            for number in differing:
                shards.forget(number)
            raise InfrastructureError(
                f"shards {', '.join(map(str, differing[:10]))} counted into bins that are no longer the "
                "reference's: the model was evaluated meanwhile",
                kept="nothing was published",
                retry="a retry counts what these shards had counted again",
            )
        return Tallies(
            add_tallies(part["rows"] for _, part in found), add_tallies(part["scores"] for _, part in found)
        )


def _mark(comparer: Comparer, groups: list[list[Scored]]) -> str:
    """Digest of what the shards count; a spec written by hand pins neither table."""
    return document_digest([
        [comparer.rows.name, comparer.rows.version],
        [comparer.predictions.name, comparer.predictions.version],
        list(comparer.arguments.ignore),
        [[str(each) for each in group] for group in groups],
    ])  # fmt: skip


def _bins(reference: Reference) -> str:
    columns = {**reference.features["columns"], **reference.score["columns"]}
    return document_digest(
        {name: [column.get("edges"), column.get("categories")] for name, column in columns.items()}
    )
