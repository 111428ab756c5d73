"""When a label has matured: the one rule that training, evaluation and monitoring share.

A label matures when it became known (``known_at``), a while after the row's prediction time
(``matures_after``), or at the later of the two. The rule is written twice, for the two engines.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import polars as pl

from airflow_ml_provider.steps.moments import moment

if TYPE_CHECKING:
    from airflow_ml_provider.contract.features import Label


def latest(label: Label, known_at: str) -> datetime | None:
    """The moment by which a label must have matured to count (UTC, without a zone); None counts all.

    Time alone makes a label with ``matures_after`` mature, so where no moment was given that is now. One
    with ``known_at`` alone has matured when it is there: it became known.

    :param known_at: the moment that was asked for, ISO 8601; empty for none.
    :raises ConfigError: it is not a moment.
    """
    given = moment(known_at, name="known_at")
    if given is None and label.matures_after is not None:
        return datetime.now(UTC).replace(tzinfo=None)
    return given


def as_sql(label: Label, *, predicted: str, known: str) -> str:
    """When a label matured, as SQL of DuckDB and of Spark; null for one that never does.

    :param predicted: the prediction time, SQL of a timestamp.
    :param known: when the label became known, SQL of a timestamp.
    """
    after = label.matures_after_seconds
    if after is None:
        return known
    final = f"({predicted} + INTERVAL {after} SECOND)"
    # "greatest" passes over a null, and what never becomes known never matures.
    return f"CASE WHEN {known} IS NOT NULL THEN greatest({known}, {final}) END" if label.known_at else final


def as_expression(label: Label, *, predicted: pl.Expr, known: pl.Expr) -> pl.Expr:
    """When a label matured, as a Polars expression; null for one that never does.

    :param predicted: the prediction time, a timestamp; used only with ``matures_after``.
    :param known: when the label became known, a timestamp; used only with ``known_at``.
    """
    after = label.matures_after_seconds
    if after is None:
        return known
    final = predicted + pl.duration(seconds=after)
    return pl.when(known.is_not_null()).then(pl.max_horizontal(known, final)) if label.known_at else final
