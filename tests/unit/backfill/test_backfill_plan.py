"""Plans over what real documents, tables and models say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import CommitProperties, write_deltalake
from small_airflow import SmallAirflow

from airflow_ml_provider.cli.airflow_client import AirflowClient
from airflow_ml_provider.cli.backfill_document import Choice, Item, Plan
from airflow_ml_provider.cli.backfill_plan import make_plan
from airflow_ml_provider.contract.documents import Publication, RunOf, StepResult, StepSpec, Tracking
from airflow_ml_provider.contract.errors import MLError
from airflow_ml_provider.contract.identity import step_key
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.registry.ledger import Entry, Ledger, Outcome

DAYS = [f"2013-06-{n:02}" for n in range(1, 5)]
Planned = Callable[..., dict[str, Item]]


class Predictions:
    """A DAG whose one task ``t`` predicts; puts down what its runs left."""

    def __init__(self, folder: Path, airflow: SmallAirflow, mlflow: str) -> None:
        self.store = Store(folder.as_uri())
        self.folder = folder
        self.airflow = airflow
        self.mlflow = mlflow

    def publish(self, table: str, day: str, key: str = "") -> int:
        """A version of a table whose one partition is new."""
        uri = str(self.folder / "tables" / table)
        rows = pl.DataFrame({"ds": [day], "x": [1]}).to_arrow(compat_level=pl.CompatLevel.oldest())
        properties = CommitProperties(custom_metadata={"step_key": key})
        write_deltalake(uri, rows, partition_by=["ds"], mode="append", commit_properties=properties)
        return self.store.latest_version(table) or 0

    def ran(
        self, day: str, run_id: str = "", status: Any = "success", forget: bool = False, **parts: Any
    ) -> str:
        """A run that predicted a day (or a range), with version 1 of the model; gives its step's key."""
        run_id = run_id or f"scheduled__{day}"
        key = step_key("d", "t", run_id)
        rows = self.store.latest_version("rows")
        arguments = {
            "model": {"name": "backfilled", "alias": "champion", "version": 1},
            "table": {"name": "rows", "partition_by": "ds", "version": rows},
            "publish": {"name": "predictions", "partition_by": "ds", "version": None},
            "partitions": day,
        }
        version = self.publish("predictions", day[:10], key)
        run = RunOf("d", "t", run_id)
        spec = StepSpec(
            "predict", self.store.uri, arguments, step_key=key, tracking=Tracking(self.mlflow), run=run
        )
        published = Publication("predictions", version, "", partitions=day)
        result = StepResult(
            "predict", key, "f", status, table=published if status == "success" else None,
            reason="no rows", parts={"verb": "predict", "code": "", "package": "1", **arguments, **parts},
        )  # fmt: skip
        self.store.write(f"runs/{key}/spec.json", spec.encode())
        self.store.write(f"runs/{key}/result.json", result.encode())
        if not forget:
            count = len(self.airflow.runs)
            self.airflow.put(run_id, end_date=f"2026-01-01T00:{count:02}:30Z")
        return key

    def plan(self, **options: Any) -> Plan:
        choice = Choice(dag_id="d", first=DAYS[0], last=DAYS[-1], **options)
        return make_plan(AirflowClient(self.airflow.url, patience=5), self.store, choice)


@pytest.fixture
def predictions(tmp_path: Path, mlflow_uri: str) -> Iterator[Predictions]:
    from mlflow import MlflowClient

    client = MlflowClient(mlflow_uri)
    if not client.search_registered_models("name = 'backfilled'"):
        client.create_registered_model("backfilled")
        run = client.create_run("0")
        for _ in range(2):
            client.create_model_version("backfilled", f"{run.info.artifact_uri}/m", run.info.run_id)
    client.set_registered_model_alias("backfilled", "champion", "1")
    airflow = SmallAirflow()
    found = Predictions(tmp_path, airflow, mlflow_uri)
    found.publish("rows", "2013-05-31")
    for day in DAYS:
        found.publish("rows", day)
    yield found
    airflow.close()


def states(plan: Plan) -> list[str]:
    return [item.state for item in plan.items]


def test_each_partition_is_judged_by_the_newest_run_for_it(predictions: Predictions) -> None:
    predictions.ran(DAYS[0])
    predictions.ran(DAYS[1], package="0")
    predictions.ran(DAYS[2], status="skipped")
    predictions.ran(DAYS[1], "manual__later")
    plan = predictions.plan()
    assert states(plan) == ["fine", "fine", "missing", "missing"]
    assert plan.items[2].why == "t had nothing to do: no rows"
    assert plan.items[3].why == "it was never run"

    version = predictions.publish("rows", DAYS[0])
    item = predictions.plan().items[0]
    assert item.why == f"t: table rows, partition {DAYS[0]}: version {version - 1} -> {version}"


def test_one_run_for_a_range_made_all_its_partitions(predictions: Predictions) -> None:
    predictions.ran(f"{DAYS[0]}..{DAYS[2]}", "manual__range")
    assert states(predictions.plan()) == ["fine", "fine", "fine", "missing"]


def test_a_new_champion_makes_stale_what_followed_the_alias_and_not_what_was_fixed(
    predictions: Predictions,
) -> None:
    from mlflow import MlflowClient

    predictions.ran(DAYS[0], selection="champion now")
    predictions.ran(DAYS[1], selection="version 1")
    assert states(predictions.plan(ignore=("selection",)))[:2] == ["fine", "fine"]
    MlflowClient(predictions.mlflow).set_registered_model_alias("backfilled", "champion", "2")
    plan = predictions.plan(ignore=("selection",))
    assert states(plan)[:2] == ["stale", "fine"]
    assert plan.items[0].why == "t: model backfilled@champion: version 1 -> version 2"
    assert states(predictions.plan(ignore=("selection", "model")))[:2] == ["fine", "fine"]


def test_predictions_as_of_their_day_are_held_against_the_ledger_and_not_the_alias(
    predictions: Predictions,
) -> None:
    from mlflow import MlflowClient

    pinned = {"name": "backfilled", "alias": "champion", "version": 1}
    for day in DAYS[:3]:
        by = [{"model": pinned, "partitions": day}]
        unpinned = {**pinned, "version": None}
        predictions.ran(day, selection="champion as of each partition", by_partition=by, model=unpinned)
    moved(predictions.store, 1, 1, "2013-05-01T00:00:00Z")
    MlflowClient(predictions.mlflow).set_registered_model_alias("backfilled", "champion", "2")
    moved(predictions.store, 2, 2, "2013-06-20T00:00:00Z")
    assert states(predictions.plan())[:3] == ["fine"] * 3
    # Found out later: version 2 counts from an earlier day on.
    moved(predictions.store, 3, 2, f"{DAYS[1]}T00:00:00Z")
    plan = predictions.plan()
    assert states(plan)[:3] == ["fine", "stale", "stale"]
    asked = f"champion as of {DAYS[1]}T00:00:00Z"
    assert plan.items[1].why == f"t: model backfilled@{asked}: version 1 -> version 2"


def moved(store: Store, sequence: int, version: int, effective: str) -> None:
    """A move of the alias as the ledger has it."""
    ledger, at = Ledger(store, "backfilled"), "2013-07-01T00:00:00Z"
    entry = Entry(
        sequence, "backfilled", "champion", version, None, at, "ada", "better", "", "", f"s{sequence}",
        effective=effective,
    )  # fmt: skip
    assert ledger.append(entry)
    assert ledger.conclude(Outcome(sequence, True, at, "s", at))


def test_a_partition_that_another_step_published_since_is_stale(predictions: Predictions) -> None:
    predictions.ran(DAYS[0])
    predictions.publish("predictions", DAYS[0], "by-hand-predict-1")
    why = predictions.plan().items[0].why
    assert why.endswith("replaced since as version 1 by the step by-hand-predict-1")


def test_what_a_run_made_that_airflow_has_forgotten_is_found_by_the_tables_log(
    predictions: Predictions,
) -> None:
    predictions.ran(DAYS[0], "cleaned away", forget=True)
    predictions.ran(DAYS[1])
    assert states(predictions.plan()) == ["fine", "fine", "missing", "missing"]
    predictions.publish("rows", DAYS[0])
    assert states(predictions.plan()) == ["stale", "fine", "missing", "missing"]


def test_another_package_and_other_settings_than_the_newest_runs_are_named(predictions: Predictions) -> None:
    predictions.ran(DAYS[0], package="0.9", batch_rows=10)
    predictions.ran(DAYS[1], batch_rows=20)
    item = predictions.plan().items[0]
    assert item.why == "t: batch_rows: 10 -> 20; t: package: 0.9 -> 1"
    assert states(predictions.plan(ignore=("package", "batch_rows")))[0] == "fine"


def test_a_setting_that_a_template_fills_in_otherwise_each_day_is_not_compared(
    predictions: Predictions,
) -> None:
    for number, day in enumerate(DAYS):
        predictions.ran(day, source=f"files/{number}.csv")
    plan = predictions.plan()
    assert states(plan) == ["fine"] * 4
    assert "t: source differs in every partition, and is not compared" in plan.notes


def test_a_result_that_cannot_be_read_is_unknown_and_no_plan_is_made(predictions: Predictions) -> None:
    key = predictions.ran(DAYS[0])
    predictions.store.write(f"runs/{key}/result.json", b"{")
    with pytest.raises(MLError, match="is not a result"):
        predictions.plan()


def test_a_champion_that_cannot_be_asked_for_is_unknown_and_no_plan_is_made(
    predictions: Predictions, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictions.ran(DAYS[0])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(MLError, match="--ignore model"):
        predictions.plan()
