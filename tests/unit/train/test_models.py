"""Models on disk: digests, and scores that are what they must be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from airflow_ml_provider.contract.errors import ConfigError, DataError, MLError, UserCodeError
from airflow_ml_provider.steps import models
from airflow_ml_provider.steps.flavors.base import Flavor
from airflow_ml_provider.steps.models import Inputs, ScoringModel

ROWS = pl.DataFrame({"x": [1.0, None, 3.0], "night": [True, False, True], "origin": ["EWR", None, "JFK"]})


class Fixed(Flavor):
    """Gives the same scores whatever it is asked."""

    name = "fixed"

    def probabilities(self, model: Any, rows: pl.DataFrame) -> Any:
        return np.asarray(model)


def test_every_model_gets_numbers_as_floats_and_text_as_text() -> None:
    inputs = Inputs.of(["night", "origin", "x"], ROWS.schema)
    given = ROWS.with_columns(pl.col("x").cast(pl.Int16)).select(inputs.expressions())
    assert given.schema == {"night": pl.Float64, "origin": pl.String, "x": pl.Float64}
    assert inputs.texts == {"origin"}


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        ([0.1, np.nan, 0.3], DataError, "no probabilities for 1 of 3 rows; the first is nan"),
        ([0.1, 1.5, -1.0], DataError, "no probabilities for 2 of 3 rows; the first is 1.5"),
        ([[0.1, 0.9]] * 3, UserCodeError, "scores of shape (3, 2) for 3 rows"),
        ([0.5], UserCodeError, "scores of shape (1,) for 3 rows"),
    ],
)
def test_scores_that_are_no_probabilities_are_refused(
    scores: list[Any], error: type[MLError], message: str
) -> None:
    model = ScoringModel("delays/1", Fixed(), scores, Inputs(("x",), frozenset()))
    with pytest.raises(error) as raised:
        model.scores(ROWS)
    assert message in str(raised.value)
    assert "model delays/1" in str(raised.value)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[models.SavedModel, models.SavedModel]:
    """Two saves of one booster."""
    import lightgbm

    rows = pl.DataFrame({"x": np.linspace(0, 1, 200)})
    data = lightgbm.Dataset(rows.to_pandas(), rows["x"].to_numpy() > 0.4)
    booster = lightgbm.train({"objective": "binary", "verbose": -1}, data, 3)
    inputs = Inputs.of(["x"], rows.schema)
    first, second = (
        models.save(booster, tmp_path / name, inputs, example=rows.head(2), notes={"label": "late"})
        for name in ("a", "b")
    )
    return first, second


def test_equal_lightgbm_models_have_equal_digests(saved: tuple[models.SavedModel, models.SavedModel]) -> None:
    first, second = saved
    assert (first.folder / "MLmodel").read_text() != (second.folder / "MLmodel").read_text()
    assert first.digest == second.digest


def test_the_description_is_read_as_mlflow_reads_it(
    saved: tuple[models.SavedModel, models.SavedModel],
) -> None:
    """So that the digests of versions that were registered by it hold."""
    from mlflow.models import Model

    folder = saved[0].folder
    read = models._description(folder, "delays")
    theirs = Model.load(str(folder)).to_dict()
    assert {part: read[part] for part in ("flavors", "metadata", "signature")} == {
        part: theirs[part] for part in ("flavors", "metadata", "signature")
    }


@pytest.mark.parametrize("text", [None, "flavors: [", "- a list", "metadata: {}"])
def test_a_folder_without_a_readable_description_is_no_model(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "MLmodel").write_text(text)
    with pytest.raises(DataError, match="model delays has no readable MLmodel"):
        models.load(tmp_path, "delays")


CHANGES: Mapping[str, tuple[bytes, bytes]] = {
    "model.lgb": (b"leaf_value=", b"leaf_value=1"),
    "MLmodel": (b"model.lgb", b"other.lgb"),
    "requirements.txt": (b"lightgbm==", b"lightgbm-backdoor=="),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_file_changes_the_digest(
    saved: tuple[models.SavedModel, models.SavedModel], name: str
) -> None:
    model, _ = saved
    path = model.folder / name
    before, after = CHANGES[name]
    assert before in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(before, after))
    assert models.artifact_digest(model.folder) != model.digest


def test_an_added_file_changes_the_digest(saved: tuple[models.SavedModel, models.SavedModel]) -> None:
    model, _ = saved
    (model.folder / "code").mkdir()
    (model.folder / "code" / "sitecustomize.py").write_text("")
    assert models.artifact_digest(model.folder) != model.digest


def test_an_mlflow_model_of_other_origin_is_refused(tmp_path: Path) -> None:
    import mlflow.sklearn
    from sklearn.linear_model import LogisticRegression

    mlflow.sklearn.save_model(LogisticRegression(), tmp_path / "m", pip_requirements=["scikit-learn"])
    with pytest.raises(DataError, match="model m was not made by a train step"):
        models.load(tmp_path / "m", "m")
    with pytest.raises(DataError, match="model n has no readable MLmodel"):
        models.load(tmp_path / "n", "n")


def test_a_model_whose_library_is_missing_says_what_to_install(
    saved: tuple[models.SavedModel, models.SavedModel],
) -> None:
    model, _ = saved
    path = model.folder / "MLmodel"
    path.write_text(path.read_text().replace("flavor: lightgbm", "flavor: xgboost"))
    with pytest.raises(ConfigError, match=r"model m \(xgboost\) cannot be loaded here: ModuleNotFoundError"):
        models.load(model.folder, "m")
