"""When a model should be trained again, as data: the rules, and the request that follows from them.

A rule is judged by a monitor step on what it has just measured. A request is written once, in a document of
its own (:mod:`airflow_ml_provider.registry.retraining`), and told as an asset event.
"""

from __future__ import annotations

import msgspec

from airflow_ml_provider.contract.ages import age_seconds
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.tables import Table


class Retrain(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When to ask for a retraining; each rule that holds is a reason, and one is enough.

    ROC AUC is that of the matured labels of the partitions looked at, those looked at again included, as far
    as the model version of the newest partition predicted them. It is judged by the upper end of its 95 %
    interval, so that a few unlucky rows ask for nothing.

    :param drift: the monitor's verdict is "drifted"; False leaves this rule out.
    :param min_roc_auc: the ROC AUC is below this, a number between 0 and 1.
    :param performance_loss: the ROC AUC is below that of the evaluation by which the version was promoted, by
        more than this: 0.02.
    :param new_rows: since the model's training partitions, more rows than this share of its training rows
        have arrived: 0.2. Counted are the rows of the monitored feature rows (or ``count``) in partitions
        after the last training partition, up to the newest that was asked for; partitions must be times.
    :param count: the table whose rows are counted for ``new_rows``; the monitored feature rows by default.
    :param at_most_every: "7d": how far requests are apart, both in time and in the partitions that they are about.
    """

    drift: bool = True
    min_roc_auc: float | None = None
    performance_loss: float | None = None
    new_rows: float | None = None
    count: Table | None = None
    at_most_every: str = "7d"

    def __post_init__(self) -> None:
        if not (self.drift or self.rules):
            raise ConfigError(
                "a Retrain without any rule asks for nothing",
                todo="give drift=True, min_roc_auc=, performance_loss= or new_rows=",
            )
        for name in ("min_roc_auc", "performance_loss"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ConfigError(f"Retrain: {name} is {value}", todo="use a number between 0 and 1")
        if self.new_rows is not None and self.new_rows <= 0:
            raise ConfigError(
                f"Retrain: new_rows is {self.new_rows}",
                todo="use a share of the training rows above 0: 0.2 is a fifth",
            )
        if self.count is not None and self.new_rows is None:
            raise ConfigError("Retrain: count= names a table, and new_rows= is not given")
        if not self.apart_seconds:
            raise ConfigError("Retrain: at_most_every is no time at all", todo='use "1d" or more')

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules with a number, by name."""
        given = ("min_roc_auc", "performance_loss", "new_rows")
        return tuple(name for name in given if getattr(self, name) is not None)

    @property
    def apart_seconds(self) -> int:
        """``at_most_every`` in seconds."""
        return age_seconds(self.at_most_every, what="Retrain: at_most_every")


class Reason(msgspec.Struct, frozen=True, omit_defaults=True):
    """A rule that holds, and the numbers that it holds by.

    :param rule: "drift", "min_roc_auc", "performance_loss" or "new_rows".
    :param because: a sentence for people.
    """

    rule: str
    because: str
    numbers: dict[str, float] = {}


class Request(msgspec.Struct, frozen=True):
    """A retraining that was asked for.

    :param sequence: its number; a model's first request is 1.
    :param version: the model version that the finding is about.
    :param at: when it was asked for, ISO 8601, UTC.
    :param newest: the newest partition that it is about, where partitions are times; empty otherwise.
    :param partitions: those that were asked for.
    :param step_key: the step that asked; with its fingerprint, a later try finds its own request again.
    :param url: the step's page in Airflow, where known.
    """

    sequence: int
    model: str
    version: int
    at: str
    newest: str
    partitions: str
    reasons: tuple[Reason, ...]
    step_key: str
    fingerprint: str
    url: str = ""
