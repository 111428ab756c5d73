"""Drift and performance of a model in use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.assets import drift_asset, retrain_asset, table_asset
from airflow_ml_provider.contract.ages import age_seconds
from airflow_ml_provider.contract.arguments import MonitorArguments
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.models import as_model
from airflow_ml_provider.operators.events import announce_drift, announce_table
from airflow_ml_provider.operators.references import publishable
from airflow_ml_provider.operators.retraining import announce_retraining, pinned_rules
from airflow_ml_provider.operators.sharding import ShardedStep

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_ml_provider.contract.documents import StepResult
    from airflow_ml_provider.contract.models import Model
    from airflow_ml_provider.contract.retraining import Retrain
    from airflow_ml_provider.contract.tables import Table
    from airflow_ml_provider.operators.pins import Pins


class MonitorOperator(ShardedStep):
    """Compares features and scores in use with the model's reference profile, and scores with labels.

    When its verdict is "drifted" it emits an event on ``drift_asset(model)``; on a calm day there is no such
    event. With ``retrain=`` it decides whether the model should be trained again, and asks for that by an
    event on ``retrain_asset(model)``, which a training DAG is scheduled on. A retry and a clear reuse the
    findings while tables and thresholds are the same.

    :param predictions: what a PredictOperator published: a Table, its name, or ``.output``. (templated)
    :param rows: the feature rows that were predicted: a Table, its name, or ``.output``. (templated)
    :param model: the model whose drift is announced; none leaves the asset events out.
    :param tables: tables that the label function reads; none leaves performance out. (templated)
    :param features: the FeatureSet with the label function; the one the rows name by default. (templated)
    :param partitions: which partitions to look at; all of them when empty. (templated)
    :param publish: the table that findings are published to; none keeps them in the report only.
    :param known_at: use only labels that had matured at this moment (ISO 8601); all when empty. (templated)
    :param ignore: features that may drift, such as a calendar's.
    :param max_psi: above this population stability index a feature, or the score, has drifted.
    :param max_drifted_share: above this share of drifted features the verdict is "drifted".
    :param min_roc_auc: below this ROC AUC on matured labels the verdict is "drifted".
    :param minimum_rows: with fewer rows there is no verdict.
    :param revisit: "14d": earlier partitions up to this long before the newest asked for are judged again when
        more of their labels have matured since the last look; needs ``publish`` and ``tables``.
    :param retrain: a Retrain: when to ask for a retraining of ``model``.

    ``shards`` and ``parallelism`` are those of :class:`~airflow_ml_provider.operators.sharding.ShardedStep`;
    labels are joined and judged by the step itself.
    """

    verb = "monitor"
    # What has matured by now, the findings of before, and whom it tells: more than its tables.
    shared = False
    looks_for_code = True
    template_fields: Sequence[str] = (
        "predictions", "rows", "tables", "features", "partitions", "publish", "known_at",
    )  # fmt: skip
    ui_color = "#f9fbe7"

    def __init__(
        self,
        *,
        predictions: Table | str | Any,
        rows: Table | str | Any,
        model: Model | str | None = None,
        tables: Sequence[Table | str | Any] = (),
        features: str | None = None,
        partitions: str = "",
        publish: Table | str | None = None,
        known_at: str = "",
        ignore: Sequence[str] = (),
        max_psi: float = 0.25,
        max_drifted_share: float = 0.5,
        min_roc_auc: float | None = None,
        minimum_rows: int = 200,
        revisit: str = "",
        retrain: Retrain | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(ignore, str):
            raise ConfigError(f"ignore is the text {ignore!r}", todo=f"give a list of features: [{ignore!r}]")
        if not 0 <= max_drifted_share <= 1:
            raise ConfigError(f"max_drifted_share is {max_drifted_share}", todo="use a share from 0 to 1")
        self.predictions = predictions
        self.rows = rows
        self.model = as_model(model) if model is not None else None
        self.tables = tables
        self.features = features
        self.partitions = partitions
        self.publish = (
            publishable(publish, wanted_by=f"task {self.task_id!r}") if publish is not None else None
        )
        self.known_at = known_at
        self.ignore = list(ignore)
        self.max_psi = max_psi
        self.max_drifted_share = max_drifted_share
        self.min_roc_auc = min_roc_auc
        self.minimum_rows = minimum_rows
        self.revisit = revisit
        self.retrain = retrain
        self._check()
        if self.publish:
            self.add_outlet(table_asset(self.publish))
        if self.model:
            self.add_outlet(drift_asset(self.model))
        if self.model and self.retrain:
            self.add_outlet(retrain_asset(self.model))

    def arguments(self, pins: Pins, context: Context) -> MonitorArguments:
        """The step's arguments, with the tables pinned."""
        return MonitorArguments(
            predictions=pins.table(self.predictions),
            rows=pins.table(self.rows),
            tables=pins.tables(self.tables),
            features=self.features,
            partitions=str(self.partitions),
            publish=self.publish,
            known_at=str(self.known_at),
            ignore=tuple(self.ignore),
            max_psi=self.max_psi,
            max_drifted_share=self.max_drifted_share,
            min_roc_auc=self.min_roc_auc,
            minimum_rows=self.minimum_rows,
            revisit=self.revisit,
            retrain=pinned_rules(self.retrain, pins, context),
            model=self.model.name if self.model else "",
            shards=self.shards,
            parallelism=self.parallelism,
        )

    def entry_points(self) -> Iterable[str | None]:
        """The feature set, where it is named."""
        return (self.features,)

    def announce(self, result: StepResult, context: Context) -> None:
        """Events for the findings that were published and, only if it drifted, for the model."""
        announce_table(self, result, context)
        if self.model:
            announce_drift(self, self.model, str(self.partitions), result, context)
        if self.model and self.retrain:
            announce_retraining(self, self.model, result, context)

    def _check(self) -> None:
        if self.revisit:
            age_seconds(self.revisit, what="revisit")
            if not (self.publish and self.tables):
                raise ConfigError(
                    f"revisit={self.revisit!r} looks again at what was published, by labels that came since",
                    todo="give publish= (the findings' table) and tables= (what the label function reads), too",
                )
        if self.retrain is not None and self.model is None:
            raise ConfigError(
                "retrain= was given without a model to train again", todo="give model=, too: its name"
            )
