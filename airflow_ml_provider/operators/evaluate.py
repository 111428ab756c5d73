"""A candidate model against the champion."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.contract.arguments import EvaluateArguments
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.gates import Gate
from airflow_ml_provider.contract.models import Model
from airflow_ml_provider.operators.base import StepOperator
from airflow_ml_provider.registry.ledger import Ledger

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_ml_provider.contract.documents import StepResult, StepSpec
    from airflow_ml_provider.contract.store import Store
    from airflow_ml_provider.contract.tables import Table
    from airflow_ml_provider.operators.pins import Pins


class EvaluateOperator(StepOperator):
    """Compares a candidate with the champion on the same pinned rows and judges it by gates.

    Its output carries the verdict for PromoteOperator; a rejected candidate is an answer and no failure. A
    retry and a clear reuse the verdict while candidate, champion, rows and gates are the same. With
    ``predictions`` models in use are compared, on the scores that they published; it is skipped while no label
    has matured, and when the candidate is the champion. A retry and a clear then look again for labels, unless
    ``known_at`` says until when they count.

    :param candidate: a Model, ``"name@alias"``, ``"name/version"`` or a train step's ``.output``. (templated)
    :param table: feature rows with labels, which the candidate was not trained on. (templated)
    :param predictions: instead of ``table``: what a predict step published with both models' scores. Rows that
        both scored (``challengers=``) are compared in pairs, otherwise (``split=``) each model on its own rows;
        only rows whose label has matured count. (templated)
    :param tables: with ``predictions``: the tables that the label function reads. (templated)
    :param rows: with ``predictions``: the feature rows that were predicted, for columns to slice by that the
        predictions do not have. (templated)
    :param features: with ``predictions``: ``"package.module:NAME"`` of the FeatureSet with the label; the one
        that the candidate was trained on by default.
    :param known_at: with ``predictions``: labels that matured after this moment (ISO 8601) do not count; all
        that have by now count when empty. (templated)
    :param partitions: which partitions to evaluate on; all of them when empty. (templated)
    :param gates: conditions that the candidate must meet, all of them.
    :param slices: columns by whose groups the metrics are reported too, and ``"package.module:function"`` that
        gives one text a row (not with ``predictions``). (templated)
    :param resamples: of the bootstrap behind the confidence intervals; more are drawn where a gate over many
        groups cannot be decided by so few.
    :param behaviour: a module of behavioural tests, ``"package.module"``; a test that fails rejects the
        candidate. Not with ``predictions``.
    """

    verb = "evaluate"
    looks_for_code = True
    template_fields: Sequence[str] = (
        "candidate", "table", "predictions", "tables", "rows", "partitions", "gates", "slices", "known_at",
    )  # fmt: skip
    ui_color = "#fce4ec"

    def __init__(
        self,
        *,
        candidate: Model | str | Any,
        table: Table | str | Any = None,
        predictions: Table | str | Any = None,
        tables: Sequence[Table | str | Any] = (),
        rows: Table | str | Any = None,
        features: str = "",
        known_at: str = "",
        partitions: str = "",
        gates: Sequence[Gate] = (),
        slices: Sequence[str] = (),
        resamples: int = 500,
        behaviour: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for gate in gates:
            if not isinstance(gate, Gate):
                raise ConfigError(
                    f"task {self.task_id!r}: {gate!r} is not a gate",
                    todo='write it as Gate("roc_auc", at_least=0.7)',
                )
        if isinstance(slices, str):
            raise ConfigError(f"slices is the text {slices!r}", todo=f"give a list of columns: [{slices!r}]")
        if resamples < 1:
            raise ConfigError(f"resamples is {resamples}", todo="use some hundreds for stable intervals")
        if (table is None) == (predictions is None):
            raise ConfigError(
                f"task {self.task_id!r} needs either table= or predictions=",
                todo="give table= with labelled feature rows, or predictions= for models in use",
            )
        self.candidate = candidate
        self.table = table
        self.predictions = predictions
        self.tables = tables
        self.rows = rows
        self.features = features
        self.known_at = known_at
        # Labels mature with time, so a live evaluation that is cleared may find more of them in the same tables.
        self.reusable = predictions is None or bool(known_at)
        self.partitions = partitions
        self.gates = list(gates)
        self.slices = list(slices)
        if ":" in behaviour:
            raise ConfigError(
                f"behaviour={behaviour!r} names a function",
                todo=f"name the module: {behaviour.partition(':')[0]!r}",
            )
        self.resamples = resamples
        self.behaviour = behaviour

    def arguments(self, pins: Pins, context: Context) -> EvaluateArguments:
        """The step's arguments, with candidate, champion and table pinned."""
        candidate = pins.model(self.candidate)
        return EvaluateArguments(
            candidate=candidate,
            champion=pins.existing_model(Model(candidate.name, "champion")),
            table=None if self.table is None else pins.table(self.table),
            predictions=None if self.predictions is None else pins.table(self.predictions),
            tables=pins.tables(self.tables),
            rows=None if self.rows is None else pins.table(self.rows),
            features=self.features,
            known_at=str(self.known_at),
            partitions=str(self.partitions),
            gates=tuple(self.gates),
            slices=tuple(self.slices),
            resamples=self.resamples,
            behaviour=self.behaviour,
        )

    def entry_points(self) -> Iterable[str | None]:
        """The functions that slice the rows, and the behavioural tests."""
        sliced_by = [*self.slices, *(gate.slice_by for gate in self.gates)]
        yield from dict.fromkeys(name for name in sliced_by if name and ":" in name)
        if self.features:
            yield self.features
        if self.behaviour:
            # All of a module's tests; an entry point names one thing in a module.
            yield f"{self.behaviour}:tests"

    def as_good_as(self, store: Store, spec: StepSpec) -> Iterator[Mapping[str, Any]]:
        """Of a candidate that is the champion by now: the evaluation that made it so."""
        candidate, champion = spec.parts["candidate"], spec.parts["champion"]
        if champion is None or champion["version"] != candidate["version"]:
            return
        moves = [move.entry for move in Ledger(store, champion["name"]).moves() if move.moved]
        last = next((entry for entry in reversed(moves) if entry.alias == champion["alias"]), None)
        if last is not None and last.kind == "promotion" and last.version == champion["version"]:
            before = None if last.previous is None else {**champion, "version": last.previous}
            yield {**spec.parts, "champion": before}

    def announce(self, result: StepResult, context: Context) -> None:
        """An evaluation publishes nothing."""
