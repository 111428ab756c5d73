"""Gates: conditions a candidate model must meet before it may become champion."""

from __future__ import annotations

import math

import msgspec

from airflow_ml_provider.contract.errors import ConfigError, did_you_mean

METRICS = ("roc_auc", "average_precision", "log_loss", "brier_score", "calibration_error")
HIGHER_IS_BETTER = {"roc_auc": True, "average_precision": True, "log_loss": False, "brier_score": False,
                    "calibration_error": False}  # fmt: skip
# What is asked of the model itself and not of its scores: less is better, and there is nothing to resample.
GUARDRAILS = ("milliseconds_per_1000_rows", "model_megabytes")
COMPARISONS = ("better_by_at_least", "worse_by_at_most", "harm_limit")


class Gate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A condition on one metric of the candidate, on the evaluation rows.

    The three comparisons are with the champion on the same rows and pass when there is no champion yet. Each
    is decided by a one-sided bootstrap p-value (:mod:`airflow_ml_provider.steps.significance`), which is the
    same as asking on which side of the margin an end of the interval lies. A gate has one of them at most.

    :param metric: ``roc_auc``, ``average_precision``, ``log_loss``, ``brier_score``, ``calibration_error``; or
        of the model itself, with ``at_most`` alone: ``milliseconds_per_1000_rows``, ``model_megabytes``
        (millions of bytes).
    :param at_least: the metric must be this or more.
    :param at_most: the metric must be this or less.
    :param worse_by_at_most: non-inferiority: the candidate must be shown to be worse by this much at most. 0
        asks for "not worse".
    :param better_by_at_least: superiority: the candidate must be shown to be better by more than this. 0 asks
        for "better".
    :param harm_limit: fails only where the candidate is shown to be worse by more than this; for slices that
        are too small to show that it is not. Harm that few rows cannot show passes.
    :param slice_by: a column, or ``"package.module:function"`` that gives one text a row; the condition must
        hold in each of the groups that has ``minimum_rows`` and ``minimum_positives``. The p-values of a
        comparison are corrected for the number of groups (Holm).
    :param confidence: of the two-sided interval. A comparison errs with half of what is left on either side:
        0.95 lets a candidate pass wrongly in at most 2.5 % of evaluations (with ``harm_limit``: fail wrongly).
    :param minimum_rows: with fewer rows nothing is shown: the gate fails, unless a ``harm_limit`` is all that
        it states, and a group is not judged.
    :param minimum_positives: likewise for rows with label 1; labels of one class only show nothing either.
    """

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    worse_by_at_most: float | None = None
    slice_by: str | None = None
    minimum_rows: int = 100
    better_by_at_least: float | None = None
    harm_limit: float | None = None
    confidence: float = 0.95
    minimum_positives: int = 1

    def __post_init__(self) -> None:
        if self.metric not in METRICS + GUARDRAILS:
            raise ConfigError(
                f"unknown metric {self.metric!r} in a gate",
                todo=did_you_mean(self.metric, METRICS + GUARDRAILS),
            )
        self._check_numbers()
        if self.metric in GUARDRAILS:
            self._check_guardrail()
        elif self.at_least is None and self.at_most is None and self.comparison is None:
            raise ConfigError(
                f"the gate on {self.metric} states no condition",
                todo="give at_least=, at_most=, worse_by_at_most=, better_by_at_least= or harm_limit=",
            )

    @property
    def comparison(self) -> str | None:
        """The name of its comparison with the champion; None if it has none."""
        return next((name for name in COMPARISONS if getattr(self, name) is not None), None)

    @property
    def margin(self) -> float:
        """The margin of its comparison; 0 if it has none."""
        return float(getattr(self, self.comparison)) if self.comparison else 0.0

    @property
    def level(self) -> float:
        """How often a comparison may err: the share that the interval leaves out on one side."""
        return (1 - self.confidence) / 2

    def __str__(self) -> str:
        said = [
            f"{self.metric} {sign} {bound:g}"
            for sign, bound in ((">=", self.at_least), ("<=", self.at_most))
            if bound is not None
        ]
        if self.worse_by_at_most is not None:
            said.append(f"{self.metric} at most {self.worse_by_at_most:g} worse than the champion")
        if self.better_by_at_least is not None:
            more = f"more than {self.better_by_at_least:g} better" if self.better_by_at_least else "better"
            said.append(f"{self.metric} {more} than the champion")
        if self.harm_limit is not None:
            said.append(
                f"{self.metric} not shown to be more than {self.harm_limit:g} worse than the champion"
            )
        where = f" in every {self.slice_by}" if self.slice_by else ""
        return " and ".join(said) + where

    def _check_numbers(self) -> None:
        for name in ("at_least", "at_most", *COMPARISONS):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ConfigError(f"{name} is {value} in the gate on {self.metric}", todo="give a number")
        given = [name for name in COMPARISONS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(
                f"the gate on {self.metric} has {' and '.join(given)}",
                todo="a gate has one comparison with the champion; write two gates to ask for both",
            )
        if given and self.margin < 0:
            other = {"worse_by_at_most": "better_by_at_least", "better_by_at_least": "worse_by_at_most"}
            raise ConfigError(
                f"{given[0]} is {self.margin:g} in the gate on {self.metric}; a margin is 0 or more",
                todo=f"write {other.get(given[0], given[0])}={-self.margin:g}",
            )
        if not 0.5 < self.confidence < 1:
            raise ConfigError(
                f"confidence is {self.confidence} in the gate on {self.metric}", todo="write 0.95 for 95 %"
            )
        if self.minimum_rows < 1 or self.minimum_positives < 0:
            raise ConfigError(
                f"the gate on {self.metric} has minimum_rows={self.minimum_rows} and "
                f"minimum_positives={self.minimum_positives}",
                todo="give at least 1 row, and 0 or more positives",
            )

    def _check_guardrail(self) -> None:
        others = [name for name in ("at_least", *COMPARISONS, "slice_by") if getattr(self, name) is not None]
        if self.at_most is None or others:
            raise ConfigError(
                f"the gate on {self.metric} has {' and '.join(others) or 'no at_most'}; it is a property of "
                "the model and not of rows",
                todo=f'write Gate("{self.metric}", at_most=...) alone',
            )
