"""The flights pipeline through a real Airflow, MLflow and PostgreSQL, as `make demo` runs it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import requests
from deltalake import DeltaTable

from airflow_api import AirflowApi
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.registry.history import history
from demo import CALM_DAY, DRIFTED_DAY, FIRST_DAY, LAST_DAY, REGRET, Demo, days
from deployment import Deployment

pytestmark = pytest.mark.timeout(600)
DAGS = ("flights_ingest", "flights_train", "flights_predict", "flights_monitor")


def table(deployment: Deployment, name: str, version: int | None = None) -> pl.DataFrame:
    uri = str(deployment.home / "store" / "tables" / name)
    return pl.scan_delta(DeltaTable(uri, version=version)).collect()


def raw_flights(deployment: Deployment) -> pl.DataFrame:
    import zipfile

    with zipfile.ZipFile(deployment.home / "raw" / "flights.csv.zip") as archive:
        data = archive.read(archive.namelist()[0])
    return pl.read_csv(data, null_values=["NA"], infer_schema_length=None)


def test_every_raw_flight_of_the_range_is_in_the_table_once(story: Demo) -> None:
    raw = raw_flights(story.deployment).filter(pl.col("month") <= 6)
    flights = table(story.deployment, "flights")
    assert flights.height == raw.height
    assert flights["ds"].n_unique() == 181
    for column in ("dep_delay", "arr_delay", "distance"):
        assert flights[column].sum() == raw[column].sum()


def test_the_impossible_wind_of_february_is_in_quarantine_with_file_line_and_reason(story: Demo) -> None:
    bad = table(story.deployment, "weather_quarantine")
    assert bad.height == 1
    row = bad.row(0, named=True)
    assert row["partition"] == "2013-02-12"
    assert Path(row["file"]).name == "weather.csv"
    assert row["column"] == "wind_speed"
    assert "1048" in row["raw"]
    lines = (story.deployment.home / "raw" / "weather.csv").read_text().splitlines()
    assert lines[row["line"] - 1] == row["raw"]


def test_the_champion_reaches_the_honest_reference_without_a_leak(story: Demo) -> None:
    verdict = story.outputs[("flights_train.evaluate", "")]["verdict"]
    auc = verdict["metrics"]["roc_auc"]
    assert 0.75 <= auc["value"] <= 0.80
    assert auc["low"] < auc["value"] < auc["high"]
    assert verdict["partitions"] == "2013-05-01..2013-05-31"


def test_the_backfill_predicted_each_day_once_with_the_champion_of_then(story: Demo) -> None:
    predictions = table(story.deployment, "flight_predictions")
    wanted = days(FIRST_DAY, LAST_DAY)
    raw = raw_flights(story.deployment).filter(pl.col("month") == 6)
    expected = {
        day: raw.filter(pl.col("day") == int(day[-2:])).height for day in wanted
    }  # a prediction for every flight, the cancelled ones too
    counted = dict(predictions.group_by("ds").len().iter_rows())
    assert counted == expected
    assert predictions["model_version"].unique().to_list() == [1]
    assert predictions["score"].is_between(0, 1).all()
    assert predictions["score"].null_count() == 0


def test_monitoring_tells_the_calm_day_from_the_drifted_one(story: Demo) -> None:
    calm = story.outputs[("flights_monitor.monitor", CALM_DAY)]["verdict"]
    drifted = story.outputs[("flights_monitor.monitor", DRIFTED_DAY)]["verdict"]
    assert not calm["drifted"]
    assert drifted["drifted"]
    assert drifted["reasons"]
    rows = table(story.deployment, "flights_monitoring")
    assert set(rows["ds"].unique()) == {CALM_DAY, DRIFTED_DAY}


def test_a_challenger_that_saw_three_days_was_rejected(story: Demo) -> None:
    verdict = story.outputs[("flights_train.evaluate", "small")]["verdict"]
    assert verdict["decision"] == "reject"
    assert [gate["gate"] for gate in verdict["gates"] if not gate["passed"]]
    assert not story.outputs[("flights_train.promote", "small")]["verdict"]["promoted"]


def test_the_second_training_uses_the_rows_that_the_first_has_validated_and_built(story: Demo) -> None:
    for task in ("validate", "features"):
        cache = story.outputs[(f"flights_train.{task}", "small")]["cache"]
        assert cache["decision"] == "hit", cache
        assert cache["made_by"]["run_id"] == f"demo__{story.mark}__all"
    assert story.outputs[("flights_train.train", "again")]["cache"]["decision"] == "rerun"


def test_a_rollback_lists_and_predicts_again_what_the_replaced_champion_had_predicted(story: Demo) -> None:
    back = story.outputs[("flights_rollback.rollback", "back")]["verdict"]
    retrained = story.outputs[("flights_train.evaluate", "again")]["verdict"]["model"]["version"]
    assert back["replaced"] == retrained
    assert back["affected_partitions"] == "2013-06-08..2013-06-10"
    again = story.outputs[("flights_rollback.predict", "back")]["table"]["version"]
    days_after = pl.col("ds") >= "2013-06-08"
    before = table(story.deployment, "flight_predictions", again - 1)
    assert before.filter(days_after)["model_version"].unique().to_list() == [retrained]
    assert before.filter(~days_after)["model_version"].unique().to_list() == [1]
    assert table(story.deployment, "flight_predictions", again)["model_version"].unique().to_list() == [1]


def test_the_ledger_tells_who_was_champion_when_and_why(story: Demo) -> None:
    moves = history(Store((story.deployment.home / "store").as_uri()), "flight_delays")
    told = [(move.entry.kind, move.entry.version, move.entry.previous) for move in moves]
    retrained = story.outputs[("flights_train.evaluate", "again")]["verdict"]["model"]["version"]
    assert told == [("promotion", 1, None), ("promotion", retrained, 1), ("rollback", 1, retrained)]
    assert moves[-1].entry.reason == REGRET


def test_drift_alone_started_a_retraining_and_the_model_says_so(story: Demo, api: AirflowApi) -> None:
    model = story.outputs[("flights_train.evaluate", "again")]["verdict"]["model"]
    answer = requests.get(f"{story.deployment.mlflow_url}/api/2.0/mlflow/model-versions/get",
                          {"name": model["name"], "version": str(model["version"])}, timeout=30)  # fmt: skip
    tags = {tag["key"]: tag["value"] for tag in answer.json()["model_version"]["tags"]}
    assert "the score moved" in tags["airflow_ml.training_reason"]
    runs = [run for run in api.runs("flights_train") if run["run_type"] == "asset_triggered"]
    assert len(runs) == 1
    assert runs[0]["state"] == "success"


def test_a_second_demo_finds_everything_done(story: Demo, api: AirflowApi) -> None:
    before = {dag: len(api.runs(dag)) for dag in (*DAGS, "flights_rollback")}
    versions = {name: DeltaTable(str(path)).version() for name, path in tables(story.deployment)}
    again = Demo(story.deployment)
    again.play()
    assert {dag: len(api.runs(dag)) for dag in before} == before
    assert {name: DeltaTable(str(path)).version() for name, path in tables(story.deployment)} == versions
    assert "Champion" in "\n".join(again.summary())


def test_a_cleared_day_is_scored_anew_by_the_champion_of_now_and_no_other_day_is_touched(
    story: Demo, api: AirflowApi
) -> None:
    # Predicted by the retrained champion, which has been rolled back since.
    day = LAST_DAY
    run_id = story.predicted(FIRST_DAY, LAST_DAY)[day]
    others = pl.col("ds") != day
    before = table(story.deployment, "flight_predictions").sort("ds", "flight_id")
    clear = {"dag_run_id": run_id, "dry_run": False, "only_failed": False, "reset_dag_runs": True}
    api.call("POST", "/dags/flights_predict/clearTaskInstances", json=clear)
    assert api.wait("flights_predict", run_id) == "success"
    after = table(story.deployment, "flight_predictions").sort("ds", "flight_id")
    assert after.filter(others).equals(before.filter(others))
    keys = ["ds", "flight_id"]
    assert after.select(keys).equals(before.select(keys))
    assert after.filter(~others)["model_version"].unique().to_list() == [1]
    tries = {task["task_id"]: task["try_number"] for task in api.tasks("flights_predict", run_id)}
    assert "hit: " in api.log("flights_predict", run_id, "features", tries["features"])
    assert "miss: model: " in api.log("flights_predict", run_id, "predict", tries["predict"])


def test_a_day_without_data_ends_as_skipped_with_the_reason(story: Demo, api: AirflowApi) -> None:
    run = api.trigger("flights_ingest", "without-data", {}, "2020-01-01")
    assert api.wait("flights_ingest", run["dag_run_id"]) == "success"
    states = {task["task_id"]: task["state"] for task in api.tasks("flights_ingest", run["dag_run_id"])}
    assert states["flights"] == "skipped"
    assert states["weather"] == "skipped"
    assert "2020-01-01" in api.log("flights_ingest", run["dag_run_id"], "flights")


def test_xcom_holds_references_and_numbers_but_no_rows(story: Demo) -> None:
    for (task, name), output in story.outputs.items():
        text = json.dumps(output)
        assert len(text) < 40_000, (task, name, len(text))


def test_links_lead_from_the_tasks_to_mlflow_reports_and_data_docs(story: Demo, api: AirflowApi) -> None:
    found: dict[str, dict[str, Any]] = {}
    for task in ("validate", "train", "evaluate"):
        run_id = f"demo__{story.mark}__all"
        links = api.call("GET", f"/dags/flights_train/dagRuns/{run_id}/taskInstances/{task}/links")
        found[task] = links["extra_links"]
    assert found["train"]["MLflow run"].startswith(story.deployment.mlflow_url)
    assert found["evaluate"]["Report"]
    assert found["validate"]["Data Docs"]
    run = found["train"]["MLflow run"].rsplit("/", 1)[-1]
    answer = requests.get(
        f"{story.deployment.mlflow_url}/api/2.0/mlflow/runs/get", {"run_id": run}, timeout=30
    )
    assert answer.json()["run"]["info"]["status"] == "FINISHED"


def test_the_planted_password_is_nowhere(story: Demo, planted_password: str) -> None:
    home = story.deployment.home
    for folder in ("store", "logs", "artifacts"):
        for path in (home / folder).rglob("*"):
            if path.is_file():
                assert planted_password.encode() not in path.read_bytes(), path
    for database in ("airflow", "mlflow"):
        assert planted_password not in dumped(story.deployment, database), database


def test_airflow_shows_the_provider_and_its_connection_form(deployment: Deployment, api: AirflowApi) -> None:
    listed = subprocess.run(
        ["airflow", "providers", "get", "airflow-ml-provider", "--full", "--output", "json"],
        env=deployment.env, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "mlflow" in listed.stdout
    form = hook_meta(deployment)
    assert form["hook_name"] == "MLflow"


def hook_meta(deployment: Deployment) -> dict[str, Any]:
    token = requests.get(f"{deployment.airflow_url}/auth/token", timeout=30).json()["access_token"]
    answer = requests.get(
        f"{deployment.airflow_url}/ui/connections/hook_meta",
        headers={"Authorization": f"Bearer {token}"}, timeout=60,
    )  # fmt: skip
    answer.raise_for_status()
    return next(entry for entry in answer.json() if entry["connection_type"] == "mlflow")


def dumped(deployment: Deployment, database: str) -> str:
    """Every text of every table of a database."""
    import psycopg2

    found: list[str] = []
    with psycopg2.connect(deployment._postgres.uri(database).replace("+psycopg2", "")) as connection:
        cursor = connection.cursor()
        cursor.execute("select table_name from information_schema.tables where table_schema = 'public'")
        for (name,) in cursor.fetchall():
            cursor.execute(f'select t::text from public."{name}" t')
            found += [str(row[0]) for row in cursor.fetchall()]
    return "\n".join(found)


def tables(deployment: Deployment) -> list[tuple[str, Path]]:
    return [(path.name, path) for path in sorted((deployment.home / "store" / "tables").iterdir())]
