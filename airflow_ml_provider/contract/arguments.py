"""What each verb takes, as documents: the inside of a spec.

Tables are named with the version to read; the operators pin it before the spec is written. ``partitions``
is in the notation of :mod:`airflow_ml_provider.contract.partitions`; an empty text means the whole table.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec

from airflow_ml_provider.contract.assignment import Variant
from airflow_ml_provider.contract.gates import Gate
from airflow_ml_provider.contract.models import Model, ModelFor
from airflow_ml_provider.contract.retraining import Retrain
from airflow_ml_provider.contract.schema import Schema
from airflow_ml_provider.contract.search import Dimension, Pruner
from airflow_ml_provider.contract.tables import Table

Verb = Literal[
    "ingest", "validate", "features", "train", "evaluate", "promote", "predict", "monitor", "fleet",
    "search", "rollback",
]  # fmt: skip
VERBS: tuple[Verb, ...] = (
    "ingest", "validate", "features", "train", "evaluate", "promote", "predict", "monitor", "fleet",
    "search", "rollback",
)  # fmt: skip


# The verbs that can be cut into shards; see `ShardedArguments`.
SHARDED: tuple[Verb, ...] = ("predict", "monitor", "ingest")


class Arguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the verbs' arguments."""

    # Arguments that say only how a step comes to its result: no part of what it computes.
    only_how: ClassVar[frozenset[str]] = frozenset()


class ShardedArguments(Arguments, frozen=True, kw_only=True):
    """Of a verb whose input can be cut by file, each part done by a process of its own."""

    only_how: ClassVar[frozenset[str]] = frozenset({"shards", "parallelism"})
    shards: Annotated[int, msgspec.Meta(ge=1)] = 1
    # How many shards run at once; on one machine at most one a processor.
    parallelism: Annotated[int, msgspec.Meta(ge=1)] = 10


class IngestArguments(ShardedArguments, frozen=True, kw_only=True):
    """:class:`~airflow_ml_provider.operators.IngestOperator`, resolved."""

    source: str
    schema: Schema | str
    publish: Table
    partitions: str = ""
    format: Literal["auto", "csv", "jsonl", "parquet"] = "auto"
    transform: str | None = None
    suite: str | None = None
    max_bad_rows: int = 0
    delimiter: str = ","


class ValidateArguments(Arguments, frozen=True, kw_only=True):
    table: Table
    suite: str
    partitions: str = ""
    fail: bool = True


class FeaturesArguments(Arguments, frozen=True, kw_only=True):
    features: str
    tables: tuple[Table, ...]
    publish: Table
    partitions: str = ""
    labels: bool = True
    # Only labels known at this moment (ISO 8601, UTC) are used; empty means all that exist.
    known_at: str = ""
    suite: str | None = None


class TrainArguments(Arguments, frozen=True, kw_only=True):
    function: str
    table: Table
    model: Model
    partitions: str = ""
    params: dict[str, Any] = {}
    # Types ("package.module.Class") that a model may hold beside scikit-learn's, NumPy's, SciPy's.
    trusted_types: tuple[str, ...] = ()
    # Columns whose values, when rows are scored, must have occurred in training.
    known_values: tuple[str, ...] = ()


class EvaluateArguments(Arguments, frozen=True, kw_only=True):
    candidate: Model
    # Feature rows with labels; None with predictions.
    table: Table | None = None
    partitions: str = ""
    gates: tuple[Gate, ...] = ()
    slices: tuple[str, ...] = ()
    resamples: int = 500
    # The version to compare with; None means the one that the alias "champion" names when the step runs.
    champion: Model | None = None
    # A module of behavioural tests.
    behaviour: str = ""
    # Guardrails that were measured before and are taken as they are, so that a verdict can be computed again.
    measured: dict[str, float] = {}
    # What models in use have predicted, judged by labels that have matured since, instead of the table.
    predictions: Table | None = None
    # Feature rows of the predictions, for columns to slice by.
    rows: Table | None = None
    # What the label function of the feature set reads; the candidate's own feature set when none is named.
    tables: tuple[Table, ...] = ()
    features: str = ""
    # Only labels known at this moment (ISO 8601, UTC) count; empty counts all that are known by now.
    known_at: str = ""


class PromoteArguments(Arguments, frozen=True, kw_only=True):
    verdict: dict[str, Any]
    alias: str = "champion"
    reason: str = ""
    promoted_by: str = ""
    # The answer of the people who were asked: approved, by, at, note, timed_out, said; empty if nobody was.
    approval: dict[str, Any] = {}
    # From which moment on the version counts as the alias's; empty means from when the alias moves.
    effective: str = ""


class RollbackArguments(Arguments, frozen=True, kw_only=True):
    model: Model
    reason: str
    # The version to go back to; None means the champion before the present one, by the ledger.
    to: int | None = None
    # The version that was champion when it was asked for; None means when the step begins.
    leaves: int | None = None
    effective: str = ""
    # Tables of predictions, to list what the version that is left has predicted.
    predictions: tuple[Table, ...] = ()
    rolled_back_by: str = ""


class PredictArguments(ShardedArguments, frozen=True, kw_only=True):
    model: Model
    table: Table
    publish: Table
    partitions: str = ""
    batch_rows: int = 100_000
    suite: str | None = None
    # Why this version, as each row records it; empty tells it from the model.
    selection: str = ""
    # The versions that were the model's champion when each partition began; they score instead of the model.
    by_partition: tuple[ModelFor, ...] = ()
    # Models that score along, in a column of their own. One that is not pinned did not exist.
    challengers: tuple[Model, ...] = ()
    # Models that share the keys, instead of the model.
    split: tuple[Variant, ...] = ()
    salt: str = ""
    # How many of a row's largest contributions of features to its score are kept; 0 keeps none.
    explain: Annotated[int, msgspec.Meta(ge=0)] = 0


class MonitorArguments(ShardedArguments, frozen=True, kw_only=True):
    predictions: Table
    rows: Table
    # The tables that the feature set's label function reads; none means that no performance is reported.
    tables: tuple[Table, ...] = ()
    features: str | None = None
    partitions: str = ""
    publish: Table | None = None
    # Only labels known at this moment (ISO 8601, UTC) count as matured; empty means all that exist.
    known_at: str = ""
    ignore: tuple[str, ...] = ()
    # A feature or the score has drifted when its population stability index is above this.
    max_psi: float = 0.25
    # The verdict is "drifted" when the score drifted or more than this share of the features did.
    max_drifted_share: float = 0.5
    min_roc_auc: float | None = None
    minimum_rows: int = 200
    # Earlier partitions up to this age ("14d") are looked at again when more of their labels have matured.
    revisit: str = ""
    # When to ask for a retraining of this model.
    retrain: Retrain | None = None
    model: str = ""


class FleetArguments(Arguments, frozen=True, kw_only=True):
    """:class:`~airflow_ml_provider.operators.FleetOperator`, resolved; also TrainOperator's with ``over=``.

    The items are the rows of the table ``over``, or lie beside the spec under ``items_digest``; by hand they
    may be written here.
    """

    function: str
    over: Table | None = None
    items: tuple[dict[str, Any], ...] = ()
    items_digest: str = ""
    count: int = 0
    table: Table | None = None
    partitions: str = ""
    params: dict[str, Any] = {}
    # The function trains a model on feature rows, and each item's is kept.
    trains: bool = False
    trusted_types: tuple[str, ...] = ()
    # The best item's model is registered: by the metric of this name, the least with a "-" before it.
    best: str = ""
    model: Model | None = None
    # The items are the values of these columns in the rows; their models are registered as one, a family.
    groups: tuple[str, ...] = ()
    # What becomes of rows whose group has no model: an error, no score, or that of a model of all rows.
    fallback: Literal["refuse", "null", "all"] = "refuse"
    # Groups of fewer labelled rows get no model.
    minimum_rows: Annotated[int, msgspec.Meta(ge=1)] = 1
    known_values: tuple[str, ...] = ()
    items_per_index: Annotated[int, msgspec.Meta(ge=1)] = 1
    parallelism: Annotated[int, msgspec.Meta(ge=1)] = 10
    tries: Annotated[int, msgspec.Meta(ge=1)] = 2
    # A number of items, or a share of them.
    max_failed: int | float = 0
    publish: Table | None = None


class SearchArguments(Arguments, frozen=True, kw_only=True):
    """:class:`~airflow_ml_provider.operators.SearchOperator`, resolved."""

    only_how: ClassVar[frozenset[str]] = frozenset({"parallelism"})

    function: str
    space: dict[str, Dimension]
    # The metric to look for the most of, or with a "-" before it the least.
    metric: str
    # How many trials the study has in the end.
    trials: Annotated[int, msgspec.Meta(ge=1)] = 100
    table: Table | None = None
    partitions: str = ""
    # The best trial's parameters are trained with once more, and registered as this model.
    model: Model | None = None
    # Common to all trials.
    params: dict[str, Any] = {}
    trusted_types: tuple[str, ...] = ()
    known_values: tuple[str, ...] = ()
    sampler: str = "tpe"
    pruner: Pruner | None = None
    # Trials that are asked for at once, knowing the results of those before.
    batch: Annotated[int, msgspec.Meta(ge=1)] = 10
    parallelism: Annotated[int, msgspec.Meta(ge=1)] = 10
    # How often a trial is run whose process dies.
    tries: Annotated[int, msgspec.Meta(ge=1)] = 2
    # A number of trials, or a share of them.
    max_failed: int | float = 0.1
    # No trial is begun when they have taken so long; 0 is no limit.
    seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0


ARGUMENTS: dict[str, type[Arguments]] = {
    "ingest": IngestArguments,
    "validate": ValidateArguments,
    "features": FeaturesArguments,
    "train": TrainArguments,
    "evaluate": EvaluateArguments,
    "promote": PromoteArguments,
    "predict": PredictArguments,
    "monitor": MonitorArguments,
    "fleet": FleetArguments,
    "search": SearchArguments,
    "rollback": RollbackArguments,
}
