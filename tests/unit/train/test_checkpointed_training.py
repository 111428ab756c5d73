"""Trainings that save checkpoints: killed, they go on and end with the model of an undisturbed one."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from checkpointed import linear, trees
from model_world import FEATURES, World, feature_rows

from airflow_ml_provider.contract.checkpoints import Checkpoint
from airflow_ml_provider.contract.documents import StepSpec
from airflow_ml_provider.steps.runner import run_step

ROWS = feature_rows(days=10).drop_nulls("late")
LABEL = "late"
PARAMS = {
    "linear": {"batches": 300, "save_every": 0},
    "trees": {"laps": 20, "num_leaves": 7, "save_every": 0},
    "network": {"epochs": 60, "save_every": 0},
}


def linear_scores(model: Any) -> bytes:
    numbers = [name for name in FEATURES if ROWS[name].dtype != pl.String]
    return model.predict_proba(ROWS.select(numbers).cast(pl.Float64).to_pandas()).tobytes()


def trees_text(model: Any) -> bytes:
    return model.model_to_string().encode()


class Killed(BaseException):
    """As a kill: nothing of the function's runs after it."""


class Mortal(Checkpoint):
    """Its training ends after so many saves."""

    lives = 1

    def due(self, every: float = 60.0) -> bool:
        self.lives -= 1
        if self.lives < 0:
            raise Killed
        return super().due(every)


def test_a_function_with_a_checkpoint_is_tested_with_pytest_alone(tmp_path: Path) -> None:
    checkpoint = Checkpoint.in_folder(tmp_path)
    model = linear.train(ROWS, [*FEATURES], LABEL, {"batches": 3, "save_every": 0}, 1, checkpoint)
    assert model.predict_proba(ROWS.select("distance", "night", "weather__temp").to_pandas()).shape[1] == 2
    saved = checkpoint.latest()
    assert saved is not None
    assert saved.step == 3


@pytest.mark.parametrize(
    ("train", "params", "bytes_of"),
    [
        (linear.train, {"batches": 40, "save_every": 0}, linear_scores),
        (trees.train, {"laps": 6, "save_every": 0}, trees_text),
    ],
    ids=["linear", "trees"],
)
def test_killed_again_and_again_it_ends_with_the_model_of_an_undisturbed_one(
    train: Callable[..., Any], params: dict[str, int], bytes_of: Callable[[Any], bytes], tmp_path: Path
) -> None:
    undisturbed = train(
        ROWS, [*FEATURES], LABEL, {**params, "save_every": 60}, 3, Checkpoint.in_folder(tmp_path / "other")
    )
    tries, model = 0, None
    while model is None:
        checkpoint = Mortal.in_folder(tmp_path)
        checkpoint.lives = 2 if params.get("laps") else 11  # type: ignore[attr-defined]
        tries += 1
        try:
            model = train(ROWS, [*FEATURES], LABEL, params, 3, checkpoint)
        except Killed:
            continue
    assert tries > 2
    assert bytes_of(model) == bytes_of(undisturbed)


def test_trees_resumed_after_their_last_lap_give_the_same_scores(tmp_path: Path) -> None:
    params, checkpoint = {"laps": 3, "save_every": 0}, Checkpoint.in_folder(tmp_path)
    first, again = (trees.train(ROWS, [*FEATURES], LABEL, params, 3, checkpoint) for _ in range(2))
    assert first.num_trees() == again.num_trees() == 3 * trees.LAP
    given = ROWS.select(FEATURES).to_pandas().astype({"origin": "category"})
    assert first.predict(given).tobytes() == again.predict(given).tobytes()


def continued(settings: dict[str, Any], folder: Path) -> float:
    """How far scores are apart: 40 rounds at once, and 15 rounds saved and continued with 25, same seed."""
    import lightgbm

    given, late = ROWS.select("distance", "weather__temp").to_pandas(), ROWS[LABEL].to_numpy()
    fixed = {"objective": "binary", "deterministic": True, "force_row_wise": True, "verbose": -1, "seed": 3}

    def rounds(count: int, **more: Any) -> Any:
        return lightgbm.train({**fixed, **settings}, lightgbm.Dataset(given, late), count, **more)

    rounds(15).save_model(folder / "model.txt")
    later = rounds(25, init_model=folder / "model.txt").predict(given)
    return float(np.abs(rounds(40).predict(given) - later).max())


@pytest.mark.parametrize(
    "drawing",
    [
        {"feature_fraction": 0.5},
        {"bagging_fraction": 0.8, "bagging_freq": 1},
        {"data_sample_strategy": "goss"},
        {"extra_trees": True},
    ],
    ids=str,
)
def test_why_trees_are_grown_in_laps_lightgbm_does_not_keep_where_its_draws_are(
    drawing: dict[str, Any], tmp_path: Path
) -> None:
    assert continued({}, tmp_path) == 0
    assert continued(drawing, tmp_path) > 0.01


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, mlflow_uri: str) -> World:
    world = World.at(tmp_path_factory.mktemp("checkpointed"), mlflow_uri)
    shutil.copytree(Path(__file__).parent / "checkpointed", world.code / "checkpointed")
    world.publish(feature_rows())
    world.publish(
        feature_rows().with_columns(pl.col("weather__temp").fill_null(0)),
        table="numbers",
        features=("distance", "night", "weather__temp"),
    )
    return world


def spec_of(world: World, kind: str, key: str, table: str = "rows", **params: Any) -> StepSpec:
    arguments = {
        "function": f"checkpointed.{kind}:train",
        "table": {"name": table},
        "model": {"name": key},
        "params": {**PARAMS[kind], **params},
    }
    parts = {"verb": "train", "code": "c0de" * 16, "seed": 5, **arguments}
    mark = "f" * 8 + "".join(f"{value}" for value in arguments["params"].values()).zfill(8)
    return world.spec("train", arguments, step_key=key, fingerprint=mark, seed=5, parts=parts)


def start(spec: StepSpec, folder: Path) -> subprocess.Popen[str]:
    path = folder / f"{spec.step_key}.json"
    path.write_bytes(spec.encode())
    command = [sys.executable, "-m", "airflow_ml_provider.steps", "train", "--spec", str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill_when_saved(world: World, process: subprocess.Popen[str], key: str, saves: int) -> None:
    """Kill -9, once this many saves more than there are now were seen by their manifests."""
    seen: set[str] = set()
    already = {str(path) for path in checkpoints_of(world, key)}
    end = time.monotonic() + 120
    while len(seen - already) < saves:
        seen |= {str(path) for path in checkpoints_of(world, key)}
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def checkpoints_of(world: World, key: str) -> list[Path]:
    return sorted(world.folder_of(key).glob("checkpoints/*/*/complete.json"))


def finish(spec: StepSpec, folder: Path) -> str:
    process = start(spec, folder)
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 0, output
    return output


def resumed_at(output: str) -> int:
    found = re.search(r"resuming from checkpoint (\d+), saved \d+ s ago", output)
    return int(found[1]) if found else 0


def scores_of(world: World, model: str, table: str) -> bytes:
    arguments = {"model": {"name": model, "version": 1}, "table": {"name": table}}
    name = f"by_{model.replace('-', '_')}"
    world.done("predict", {**arguments, "publish": {"name": name}})
    return world.table(name).sort("ds", "flight_id")["score"].to_numpy().tobytes()


def kill_and_compare(
    world: World, tmp_path: Path, kind: str, *, table: str = "rows", kills: tuple[int, ...] = (3,)
) -> list[str]:
    """Kills a training after so many saves each; gives the digests of its model and an undisturbed one's."""
    killed, undisturbed = f"{kind}-killed", f"{kind}-undisturbed"
    spec = spec_of(world, kind, killed, table)
    begun = 0
    for saves in kills:
        kill_when_saved(world, start(spec, tmp_path), killed, saves)
        step = int(checkpoints_of(world, killed)[-1].parent.name)
        assert step > begun
        begun = step
    output = finish(spec, tmp_path)
    assert resumed_at(output) == begun
    assert "training starts at the beginning" not in output
    assert not [*world.folder_of(killed).rglob("checkpoints/*")]
    result = run_step(spec_of(world, kind, undisturbed, table, save_every=3600))
    assert result.status == "success", result.failure
    assert scores_of(world, killed, table) == scores_of(world, undisturbed, table)
    versions = [world.client.get_model_version(name, "1") for name in (killed, undisturbed)]
    return [version.tags["airflow_ml.artifact_digest"] for version in versions]


@pytest.mark.slow
def test_the_process_of_a_linear_model_is_killed_and_the_next_goes_on(world: World, tmp_path: Path) -> None:
    # A skops file differs with every save; scores are compared.
    kill_and_compare(world, tmp_path, "linear", kills=(2, 3))


def test_the_process_of_boosted_trees_is_killed_and_the_next_goes_on(world: World, tmp_path: Path) -> None:
    killed, undisturbed = kill_and_compare(world, tmp_path, "trees")
    assert killed == undisturbed


@pytest.mark.slow
def test_the_process_of_a_pytorch_network_is_killed_and_the_next_goes_on(
    world: World, tmp_path: Path
) -> None:
    kill_and_compare(world, tmp_path, "network", table="numbers")


@pytest.mark.slow
def test_a_network_resumed_has_the_weights_of_one_that_was_not_disturbed(tmp_path: Path) -> None:
    network = importlib.import_module("checkpointed.network")
    rows, features = ROWS.fill_null(0), ["distance", "night", "weather__temp"]
    whole = network.train(rows, features, LABEL, {"epochs": 8}, 3, Checkpoint.in_folder(tmp_path / "other"))
    checkpoint = Mortal.in_folder(tmp_path)
    checkpoint.lives = 4  # type: ignore[attr-defined]
    params = {"epochs": 8, "save_every": 0}
    with pytest.raises(Killed):
        network.train(rows, features, LABEL, params, 3, checkpoint)
    resumed = network.train(rows, features, LABEL, params, 3, Checkpoint.in_folder(tmp_path))
    for name, weights in whole.state_dict().items():
        assert weights.numpy().tobytes() == resumed.state_dict()[name].numpy().tobytes(), name


@pytest.mark.slow
def test_other_hyperparameters_start_afresh_and_the_log_says_what_differs(
    world: World, tmp_path: Path
) -> None:
    kill_when_saved(world, start(spec_of(world, "trees", "changed"), tmp_path), "changed", 2)
    output = finish(spec_of(world, "trees", "changed", num_leaves=15, laps=2), tmp_path)
    assert resumed_at(output) == 0
    assert "no checkpoint of this code, data and parameters (params: {" in output
    assert "training starts at the beginning" in output
    assert not [*world.folder_of("changed").rglob("checkpoints/*")]


def test_a_damaged_checkpoint_is_a_warning_of_the_step_and_the_one_before_is_used(
    world: World, tmp_path: Path
) -> None:
    spec = spec_of(world, "trees", "damaged")
    kill_when_saved(world, start(spec, tmp_path), "damaged", 3)
    before, newest = checkpoints_of(world, "damaged")[-2:]
    for path in newest.parent.rglob("0000"):
        path.write_bytes(path.read_bytes()[:-7])
    output = finish(spec, tmp_path)
    assert resumed_at(output) == int(before.parent.name)
    (warning,) = world_result(world, "damaged")["warnings"]
    assert f"checkpoint {int(newest.parent.name)} at {newest.parent.as_uri()} is damaged" in warning


def world_result(world: World, key: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((world.folder_of(key) / "result.json").read_text())
    return found


def test_a_function_without_a_checkpoint_is_as_before(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    world.train("without", step_key="without")
    assert not [*world.folder_of("without").rglob("checkpoints")]
    assert "checkpoint" not in caplog.text


ASKING = """
    from typing import TYPE_CHECKING, Optional

    import polars as pl
    from delay_models import linear
    from airflow_ml_provider.contract import checkpoints
    from airflow_ml_provider.contract.checkpoints import Checkpoint

    if TYPE_CHECKING:
        from airflow_ml_provider.contract.checkpoints import Checkpoint as Later

    SEEN = []

    def annotated(rows: pl.DataFrame, features, label, params, seed, keeper: Checkpoint):
        SEEN.append(keeper)
        return linear(rows, features, label, params, seed)

    def by_module(rows: pl.DataFrame, features, label, params, seed, keeper: checkpoints.Checkpoint):
        return annotated(rows, features, label, params, seed, keeper)

    def named(rows: pl.DataFrame, features, label, params, seed, checkpoint):
        return annotated(rows, features, label, params, seed, checkpoint)

    def optional(rows: pl.DataFrame, features, label, params, seed, c: Optional[Checkpoint] = None):
        return annotated(rows, features, label, params, seed, c)

    def spelled(rows: pl.DataFrame, features, label, params, seed, c: "NotThere | Checkpoint | None" = None):
        return annotated(rows, features, label, params, seed, c)

    def own(rows: pl.DataFrame, features, label, params, seed, checkpoint: str = "mine"):
        return annotated(rows, features, label, params, seed, checkpoint)

    def wants_more(rows: pl.DataFrame, chekpoint: int):
        ...
"""


@pytest.fixture(scope="module")
def asking(world: World) -> World:
    world.write("asking", ASKING)
    return world


@pytest.mark.parametrize("function", ["annotated", "by_module", "named", "optional", "spelled"])
def test_it_is_asked_for_by_annotation_or_name(asking: World, function: str) -> None:
    asking.train(f"asked_{function}", f"asking:{function}")
    assert isinstance(sys.modules["asking"].SEEN[-1], Checkpoint)


def test_a_parameter_that_has_the_name_and_another_type_is_left_alone(asking: World) -> None:
    asking.train("asked_own", "asking:own")
    assert sys.modules["asking"].SEEN[-1] == "mine"


def test_it_is_told_among_what_there_is(asking: World) -> None:
    arguments = {"function": "asking:wants_more", "table": {"name": "rows"}, "model": {"name": "never"}}
    failure = asking.run("train", arguments).failure
    assert failure is not None
    assert "by annotation: Checkpoint" in failure.message
