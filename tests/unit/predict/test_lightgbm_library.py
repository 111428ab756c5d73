"""LightGBM's library without its package: the same scores, to the last bit, and the same errors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import polars as pl
import pytest

from airflow_ml_provider.contract.errors import UserCodeError
from airflow_ml_provider.steps import models
from airflow_ml_provider.steps.flavors import lightgbm_library
from airflow_ml_provider.steps.flavors.lightgbm_library import LibraryScorer, scorer_of
from airflow_ml_provider.steps.models import Inputs

FEATURES = [f"f{number}" for number in range(6)]


@pytest.fixture(scope="module")
def matrix() -> np.ndarray:
    found = np.random.default_rng(0).random((12_000, len(FEATURES)))
    found[::7, 2] = np.nan
    found[::11, 3] = 0
    return found


def trained(
    matrix: np.ndarray, parameters: dict[str, Any], labels: np.ndarray | None = None
) -> lightgbm.Booster:
    """A few trees."""
    sums = matrix[:, 0] + matrix[:, 1]
    data = lightgbm.Dataset(
        matrix, (sums > 1).astype(int) if labels is None else labels, feature_name=FEATURES
    )
    return lightgbm.train({"verbose": -1, "seed": 3, **parameters}, data, 15)


@pytest.mark.parametrize(
    "parameters",
    [
        {"objective": "binary"},
        {"objective": "binary", "boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.7},
        {"objective": "binary", "linear_tree": True},
        {"objective": "regression", "zero_as_missing": True},
    ],
    ids=str,
)
def test_scores_are_those_of_the_package(
    tmp_path: Path, matrix: np.ndarray, parameters: dict[str, Any]
) -> None:
    booster = trained(matrix, parameters)
    booster.save_model(tmp_path / "model.lgb")
    scorer = scorer_of(tmp_path / "model.lgb")
    assert isinstance(scorer, LibraryScorer)
    wanted = lightgbm.Booster(model_file=str(tmp_path / "model.lgb")).predict(matrix)
    for rows in (matrix, np.asfortranarray(matrix), matrix[::-1][::-1]):
        for threads in (0, 1, 2):
            assert (scorer.predict(rows, num_threads=threads) == wanted).all()
    assert (scorer.predict(matrix[::2], num_threads=1) == wanted[::2]).all()


def test_a_model_of_a_pandas_frame_of_numbers_is_scored_too(tmp_path: Path, matrix: np.ndarray) -> None:
    frame = pl.DataFrame(matrix, schema=FEATURES).to_pandas()
    data = lightgbm.Dataset(frame, (matrix[:, 0] > 0.5).astype(int))
    booster = lightgbm.train({"objective": "binary", "verbose": -1}, data, 10)
    booster.save_model(tmp_path / "model.lgb")
    scorer = scorer_of(tmp_path / "model.lgb")
    assert scorer is not None
    assert (scorer.predict(matrix, num_threads=1) == booster.predict(frame)).all()


def test_scores_of_several_classes_have_a_column_each(tmp_path: Path, matrix: np.ndarray) -> None:
    booster = trained(matrix, {"objective": "multiclass", "num_class": 3}, (matrix[:, 0] * 3).astype(int))
    booster.save_model(tmp_path / "model.lgb")
    scorer = scorer_of(tmp_path / "model.lgb")
    assert scorer is not None
    assert (scorer.predict(matrix, num_threads=1) == booster.predict(matrix)).all()


def test_rows_of_another_width_are_refused_in_the_librarys_words(tmp_path: Path, matrix: np.ndarray) -> None:
    trained(matrix, {"objective": "binary"}).save_model(tmp_path / "model.lgb")
    scorer = scorer_of(tmp_path / "model.lgb")
    assert scorer is not None
    with pytest.raises(RuntimeError, match="number of features"):
        scorer.predict(matrix[:, :3], num_threads=1)


def test_a_damaged_model_is_refused_in_the_librarys_words(tmp_path: Path) -> None:
    (tmp_path / "model.lgb").write_text("tree\nnonsense\npandas_categorical:null\n")
    with pytest.raises(RuntimeError, match="Model file"):
        scorer_of(tmp_path / "model.lgb")


def test_a_model_with_text_features_is_left_to_the_package(tmp_path: Path) -> None:
    frame = pl.DataFrame({"carrier": ["UA", "AA", "DL", "UA"] * 100, "late": [1, 0, 0, 1] * 100}).to_pandas()
    data = lightgbm.Dataset(frame[["carrier"]].astype("category"), frame["late"])
    lightgbm.train({"objective": "binary", "verbose": -1}, data, 3).save_model(tmp_path / "model.lgb")
    assert scorer_of(tmp_path / "model.lgb") is None


def unknown(name: str) -> str:
    raise PackageNotFoundError(name)


@pytest.mark.parametrize("version", [lambda _: "5.0.0", unknown], ids=["another", "unknown"])
def test_another_major_version_is_left_to_the_package(
    version: Callable[[str], str], tmp_path: Path, matrix: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(matrix, {"objective": "binary"}).save_model(tmp_path / "model.lgb")
    monkeypatch.setattr(lightgbm_library, "version", version)
    lightgbm_library._library.cache_clear()
    try:
        assert scorer_of(tmp_path / "model.lgb") is None
    finally:
        lightgbm_library._library.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, matrix: np.ndarray) -> Path:
    """A saved model."""
    inputs = Inputs(tuple(FEATURES), frozenset())
    example = pl.DataFrame(matrix[:3], schema=FEATURES)
    models.save(trained(matrix, {"objective": "binary"}), tmp_path / "model", inputs, example=example)
    return tmp_path / "model"


def test_a_model_that_only_scores_gives_the_scores_of_one_that_does_all(
    folder: Path, matrix: np.ndarray
) -> None:
    rows = pl.DataFrame(matrix, schema=FEATURES)
    whole, scorer = models.load(folder, "delays/1"), models.load(folder, "delays/1", only_scores=True)
    assert isinstance(scorer.native, LibraryScorer)
    assert isinstance(whole.native, lightgbm.Booster)
    on_threads = scorer.on_threads(1)
    assert on_threads is not None
    assert (scorer.scores(rows) == whole.scores(rows)).all()
    assert (on_threads.scores(rows) == whole.scores(rows)).all()


def test_what_the_library_says_names_the_model(folder: Path, matrix: np.ndarray) -> None:
    scorer = models.load(folder, "delays/1", only_scores=True)
    with pytest.raises(UserCodeError, match=r"delays/1.*number of features"):
        scorer.scores(pl.DataFrame(matrix[:, :2], schema=FEATURES[:2]))


def test_a_process_that_scores_imports_none_of_what_the_package_does(folder: Path) -> None:
    program = (
        "import sys; from pathlib import Path; import polars as pl; from airflow_ml_provider.steps import models\n"
        "model = models.load(Path(sys.argv[1]), 'delays/1', only_scores=True)\n"
        "print(model.scores(pl.DataFrame({name: [0.5] for name in model.inputs.features})))\n"
        "assert not {'lightgbm', 'sklearn', 'scipy', 'pandas', 'mlflow'} & set(sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
