"""What a model version was trained and evaluated on: the profiles kept with its training run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from airflow_ml_provider.contract.errors import ConfigError, DataError, did_you_mean
from airflow_ml_provider.steps.drift import LEAST_PARTITIONS
from airflow_ml_provider.steps.profiles import FORMAT, ColumnProfile, Profile

if TYPE_CHECKING:
    from airflow_ml_provider.contract.documents import ModelVersion
    from airflow_ml_provider.steps.context import StepContext

SCORE = "score"
REFERENCE_PROFILE = "reference_profile.json"
SCORE_PROFILE = "score_profile.json"


@dataclass(frozen=True)
class Reference:
    """The profiles of a model's features, without those that are ignored, and of its score alone."""

    features: Profile
    score: Profile

    @classmethod
    def of(cls, step: StepContext, model: ModelVersion, ignore: Sequence[str]) -> Reference:
        """Fetch the profiles of a model.

        The score's is the one on held-out rows if the model was evaluated: a model is surer of the rows it
        was trained on than of any others. Where those are of too few partitions to tell what is usual, that
        is taken from the training rows.

        :raises DataError: the training run has no profile, or one of another format.
        :raises ConfigError: ``ignore`` names a feature that the model does not have.
        """
        name = f"{model.name}/{model.version}"
        columns = _fetch(step, model, REFERENCE_PROFILE)
        score = columns.pop(SCORE, None)
        if score is None:
            raise DataError(
                f"model {name} (run {model.run_id}) has no reference profile to compare with",
                todo="train it with the train step, which keeps one",
            )
        if unknown := [feature for feature in ignore if feature not in columns]:
            raise ConfigError(
                f"ignore names {unknown[0]!r}, which is no feature of {name}",
                todo=did_you_mean(unknown[0], list(columns)),
            )
        held_out = _fetch(step, model, SCORE_PROFILE).get(SCORE, score)
        if _days(held_out) < LEAST_PARTITIONS <= _days(score):
            held_out = {**held_out, "usual": score["usual"]}
        if _days(held_out) < LEAST_PARTITIONS:
            step.warn(
                f"the reference of {name} has {_days(held_out)} partitions, too few to tell how much single "
                "partitions usually differ: max_psi decides by itself and may call every partition drifted"
            )
        features = {feature: column for feature, column in columns.items() if feature not in ignore}
        return cls(_profile(features), _profile({SCORE: held_out}))


def _fetch(step: StepContext, model: ModelVersion, name: str) -> dict[str, ColumnProfile]:
    """The columns of a profile among the files of the model's training run; none if it is not there."""
    tracker, said = step.tracker, f"{model.name}/{model.version}"
    with tracker.speaking(f"list the files of run {model.run_id}, which trained {said}"):
        if name not in {file.path for file in tracker.client.list_artifacts(model.run_id)}:
            return {}
    path = tracker.download(f"runs:/{model.run_id}/{name}", step.scratch / f"reference-{model.run_id}")
    profile = json.loads(path.read_bytes())
    if profile.get("format") != FORMAT:
        raise DataError(
            f"{name} of {said} has format {profile.get('format')}; this installation reads format {FORMAT}",
            todo="train and evaluate a new version, or run this step on the installation that trained it",
        )
    return cast("dict[str, ColumnProfile]", profile["columns"])


def _days(column: ColumnProfile) -> int:
    usual = column.get("usual")
    return usual["partitions"] if usual else 0


def _profile(columns: dict[str, ColumnProfile]) -> Profile:
    return {"format": FORMAT, "rows": 0, "columns": columns}
