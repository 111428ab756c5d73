"""Candidate and champion on the same rows, or each on its own: scores, metrics, and metrics by slice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from airflow_ml_provider.steps import slices as slicing
from airflow_ml_provider.steps.importance import Importance, permutation_importance, sample_rows
from airflow_ml_provider.steps.judgement import Group, needed_resamples
from airflow_ml_provider.steps.metrics import Comparison, Side, compare_groups, compare_unpaired
from airflow_ml_provider.steps.progress import Progress
from airflow_ml_provider.steps.scoring import scored_batches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from airflow_ml_provider.contract.gates import Gate
    from airflow_ml_provider.steps.labelled_rows import LabelledRows
    from airflow_ml_provider.steps.models import ScoringModel

    Floats = NDArray[np.float64]
    Places = NDArray[np.intp]


Counting = Callable[[str, int | None], Progress]


@dataclass(frozen=True)
class Measured:
    """What was measured, row by row and in sum.

    :param labels: of the candidate's rows.
    :param scores: of the candidate, then of the champion if it was scored.
    :param groups: the groups of each column that is sliced by, the largest first.
    :param partitions: the partition of each of the candidate's rows, if the table has any.
    :param resamples: how many there were: more than asked for where Holm's correction needs them.
    :param champion_labels: of the champion's rows, where those are not the candidate's.
    """

    labels: NDArray[np.int8]
    scores: Sequence[Floats]
    overall: Comparison
    groups: Mapping[str, Sequence[Group]]
    partitions: pl.Series | None
    resamples: int = 0
    champion_labels: NDArray[np.int8] | None = None


def measure(
    rows: LabelledRows,
    models: Sequence[ScoringModel],
    slices: Sequence[str],
    *,
    resamples: int,
    seed: int,
    gates: Sequence[Gate] = (),
    texts: Mapping[str, pl.Series] | None = None,
    progress: Counting = Progress,
) -> Measured:
    """Score the rows with the candidate, and the champion if there is one, and compare.

    Held in memory for each row: its label, scores and slices, and about 40 bytes a model for all rows and
    again for each slice; features a batch at a time.

    :param models: the candidate, and the champion if it is to be scored.
    :param slices: columns of the rows, or names of ``texts``.
    :param texts: what functions say of each row, by their name.
    :param progress: counts rows that are scored, and resamples, for people.
    """
    texts = texts or {}
    partition = [rows.partition_by] if rows.partition_by else []
    keep = list(dict.fromkeys([rows.label, *(name for name in slices if name not in texts), *partition]))
    kept: list[pl.DataFrame] = []
    scored: list[list[Floats]] = [[] for _ in models]
    with progress("rows", rows.count) as counted:
        for batch, scores in scored_batches(rows.frame, list(models), keep):
            kept.append(batch)
            for of_model, found in zip(scored, scores, strict=True):
                of_model.append(found)
            counted.advance(batch.height)
    return measure_scored(
        pl.concat(kept).with_columns(**texts),
        [np.concatenate(each) for each in scored],
        label=rows.label,
        slices=slices,
        partition=rows.partition_by,
        resamples=resamples,
        seed=seed,
        gates=gates,
        progress=progress,
    )


def measure_scored(
    rows: pl.DataFrame,
    scores: Sequence[Floats],
    *,
    label: str,
    slices: Sequence[str] = (),
    partition: str | None = None,
    resamples: int,
    seed: int,
    gates: Sequence[Gate] = (),
    progress: Counting = Progress,
) -> Measured:
    """Compare on rows that have been scored by both models.

    :param rows: the label (0 or 1, no null), the slices, and the partition column if there is one.
    :param scores: of the candidate, then of the champion if there is one: one a row, in the rows' order.
    :param slices: columns of ``rows``.
    :param resamples: more are drawn where the gates' p-values need them.
    :param gates: what the rows will be judged by.
    """
    labels = rows[label].cast(pl.Int8).to_numpy()
    parted = {name: list(slicing.groups(name, rows[name])) for name in slices}
    draws = _needed(gates, parted, labels, resamples, compared=len(scores) > 1)
    places = [own for found in parted.values() for _, own in found]
    with progress("resamples", draws) as counted:
        overall, *of_groups = compare_groups(
            labels, scores, places, resamples=draws, seed=seed, advance=counted.advance
        )
    values = {name: [value for value, _ in found] for name, found in parted.items()}
    partitions = rows[partition] if partition else None
    return Measured(labels, scores, overall, _grouped(values, of_groups), partitions, draws)


def measure_split(
    candidate: pl.DataFrame,
    champion: pl.DataFrame,
    scores: tuple[Floats, Floats],
    *,
    label: str,
    slices: Sequence[str] = (),
    partition: str | None = None,
    resamples: int,
    seed: int,
    gates: Sequence[Gate] = (),
    progress: Counting = Progress,
) -> Measured:
    """Compare two models that were given rows of their own, as an A/B split does: unpaired.

    :param candidate: the candidate's rows, as for :func:`measure_scored`; ``champion`` likewise.
    :param scores: the candidate's for its rows, and the champion's for its own.
    """
    sides = (candidate, champion)
    labels = [rows[label].cast(pl.Int8).to_numpy() for rows in sides]
    parted: dict[str, list[tuple[str | None, Places]]] = {}
    others: list[Places] = []
    for name in slices:
        ours, theirs = (dict(slicing.groups(name, rows[name])) for rows in sides)
        nobody = np.empty(0, np.intp)
        parted[name] = [(value, ours.get(value, nobody)) for value in [*ours, *(set(theirs) - set(ours))]]
        parted[name].sort(key=lambda each: (-len(each[1]), each[0] or "", each[0] is None))
        others += [theirs.get(value, nobody) for value, _ in parted[name]]
    draws = _needed(gates, parted, labels[0], resamples, compared=True)
    own = [places for found in parted.values() for _, places in found]
    one, other = Side(labels[0], scores[0], own), Side(labels[1], scores[1], others)
    with progress("resamples", 2 * draws) as counted:
        overall, *of_groups = compare_unpaired(
            one, other, resamples=draws, seed=seed, advance=counted.advance
        )
    values = {name: [value for value, _ in found] for name, found in parted.items()}
    return Measured(
        labels[0],
        list(scores),
        overall,
        _grouped(values, of_groups),
        candidate[partition] if partition else None,
        draws,
        labels[1],
    )


def importance(rows: LabelledRows, model: ScoringModel, seed: int) -> list[Importance]:
    """Permutation importance on a sample of the rows, of bounded size."""
    size = sample_rows(len(model.inputs.features))
    sample = sampled(rows, size, seed, [*model.inputs.expressions(), pl.col(rows.label).alias(" label")])
    return permutation_importance(
        model, sample.select(model.inputs.features), sample[" label"].to_numpy(), seed
    )


def sampled(rows: LabelledRows, size: int, seed: int, columns: Sequence[pl.Expr | str]) -> pl.DataFrame:
    """Some columns of at most ``size`` rows, drawn without replacement, in the rows' order."""
    chosen = np.sort(np.random.default_rng(seed).choice(rows.count, min(size, rows.count), replace=False))
    found = rows.frame.select(*columns).with_row_index(" row").filter(pl.col(" row").is_in(chosen))
    return found.collect(engine="streaming").sort(" row").drop(" row")


def _needed(
    gates: Sequence[Gate],
    parted: Mapping[str, Sequence[tuple[str | None, Places]]],
    labels: NDArray[np.int8],
    resamples: int,
    *,
    compared: bool,
) -> int:
    sizes = {
        name: [
            Group(name, value, Comparison(len(own), int(np.count_nonzero(labels[own])), {}))
            for value, own in found
        ]
        for name, found in parted.items()
    }
    return needed_resamples(gates, sizes, resamples, compared=compared)


def _grouped(
    values: Mapping[str, Sequence[str | None]], compared: Sequence[Comparison]
) -> dict[str, list[Group]]:
    waiting = iter(compared)
    return {
        name: [Group(name, value, next(waiting)) for value in of_name] for name, of_name in values.items()
    }
