"""Gates: conditions a candidate model must meet before it may become champion."""

from __future__ import annotations

import msgspec

from airflow_ml_provider.contract.errors import ConfigError, did_you_mean

METRICS = ("roc_auc", "average_precision", "log_loss", "brier_score", "calibration_error")
HIGHER_IS_BETTER = {"roc_auc": True, "average_precision": True, "log_loss": False, "brier_score": False,
                    "calibration_error": False}  # fmt: skip


class Gate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A condition on one metric of the candidate, on the evaluation rows.

    :param metric: one of ``roc_auc``, ``average_precision``, ``log_loss``, ``brier_score``,
        ``calibration_error``.
    :param at_least: the metric must be this or more.
    :param at_most: the metric must be this or less.
    :param worse_by_at_most: against the champion on the same rows: the candidate may be worse by this much
        at most, judged by the unfavourable end of the 95 % interval of the paired difference. Passes when
        there is no champion yet. 0 asks for "not worse".
    :param slice_by: a column; the condition must then hold in each of its groups that has ``minimum_rows``.
    :param minimum_rows: with fewer rows (or no row of either class) the gate fails, since nothing was shown.
    """

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    worse_by_at_most: float | None = None
    slice_by: str | None = None
    minimum_rows: int = 100

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ConfigError(
                f"unknown metric {self.metric!r} in a gate", todo=did_you_mean(self.metric, METRICS)
            )
        if self.at_least is None and self.at_most is None and self.worse_by_at_most is None:
            raise ConfigError(
                f"the gate on {self.metric} states no condition",
                todo="give at_least=, at_most= or worse_by_at_most=",
            )

    def __str__(self) -> str:
        said = [
            f"{self.metric} {sign} {bound:g}"
            for sign, bound in ((">=", self.at_least), ("<=", self.at_most))
            if bound is not None
        ]
        if self.worse_by_at_most is not None:
            said.append(f"{self.metric} at most {self.worse_by_at_most:g} worse than the champion")
        where = f" in every {self.slice_by}" if self.slice_by else ""
        return " and ".join(said) + where
