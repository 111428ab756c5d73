"""Who asks for Spark, and what is said where there is none; nothing here starts it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from both_engines import tables
from deltalake import DeltaTable, write_deltalake

from airflow_ml_provider.compute import KubernetesCompute, Launch, LocalCompute, SparkCompute
from airflow_ml_provider.contract.documents import StepResult
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.steps import spark_tables
from airflow_ml_provider.steps.pinned_tables import PinnedTable
from airflow_ml_provider.steps.spark_session import ENGINE

SHOP = """
    from airflow_ml_provider import FeatureSet, FeatureView

    def to_predict(orders: {rows}):
        return orders

    def visited(visits: {facts}):
        return visits

    VISITS = FeatureView("visits", visited, by=("customer",), event_time="visited_at", knowledge_time="logged_at",
                         features=("pages",))
    SET = FeatureSet(rows=to_predict, key=("order_id",), prediction_time="ordered_at", views=(VISITS,))
"""
LAUNCH = Launch("a-step", "features", "file:///spec.json")

Build = Callable[[str], StepResult]


@pytest.fixture
def build(store: str, user_code: Callable[..., str], run_step: Callable[..., StepResult]) -> Build:
    """Writes a module and builds its feature set."""
    for name, frame in tables(0, orders=5, visits=5).items():
        write_deltalake(f"{store.removeprefix('file://')}/tables/{name}", frame.to_arrow())

    def run(module: str) -> StepResult:
        user_code(asking=module)
        arguments: dict[str, Any] = {
            "features": "asking:SET", "tables": [{"name": "orders"}, {"name": "visits"}],
            "publish": {"name": "rows"}, "partitions": "2013-06-01", "labels": False,
        }  # fmt: skip
        return run_step("features", arguments)

    return run


@pytest.fixture
def without_pyspark(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it is not installed, wherever the tests run."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyspark"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyspark", None)


def failure(result: StepResult, kind: str = "config") -> str:
    assert result.failure is not None, result.status
    assert result.failure.kind == kind
    return result.failure.message


def test_a_function_that_asks_for_spark_where_there_is_none_says_what_to_install(
    build: Build, without_pyspark: None
) -> None:
    message = failure(build(SHOP.format(rows='"pyspark.sql.DataFrame"', facts='"pyspark.sql.DataFrame"')))
    assert "asking:to_predict asks for a Spark frame, and PySpark is not installed" in message
    assert "pip install 'airflow-ml-provider[spark]'" in message


def test_a_module_that_imports_spark_where_there_is_none_says_what_to_install(
    build: Build, without_pyspark: None
) -> None:
    module = "    import pyspark.sql\n" + SHOP.format(
        rows="pyspark.sql.DataFrame", facts="pyspark.sql.DataFrame"
    )
    message = failure(build(module))
    assert "asking, where 'SET' is, imports Spark, and PySpark is not installed" in message
    assert "pip install 'airflow-ml-provider[spark]'" in message


def test_functions_of_two_engines_in_a_set_are_refused_by_name(build: Build) -> None:
    message = failure(build(SHOP.format(rows='"pyspark.sql.DataFrame"', facts='"pl.LazyFrame"')))
    assert "asking:to_predict asks for a Spark frame and asking:visited does not" in message


def test_a_table_with_deletion_vectors_is_refused_before_a_deleted_row_can_be_read(tmp_path: Path) -> None:
    write_deltalake(tmp_path, pl.DataFrame({"a": [1, 2]}).to_arrow())
    log = tmp_path / "_delta_log" / f"{0:020}.json"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        if "protocol" in line:
            features = ["deletionVectors"]
            line["protocol"] = {
                "minReaderVersion": 3, "minWriterVersion": 7,
                "readerFeatures": features, "writerFeatures": features,
            }  # fmt: skip
    log.write_text("\n".join(map(json.dumps, lines)))
    table = PinnedTable(Table("shared"), tmp_path.as_uri(), DeltaTable(tmp_path))
    with pytest.raises(ConfigError, match="'shared' uses deletionVectors of Delta Lake"):
        spark_tables.read(None, table)  # type: ignore[arg-type] # there is no Spark to ask


def test_a_spark_compute_tells_the_step_its_master_and_settings(tmp_path: Path) -> None:
    script, seen = tmp_path / "interpreter", tmp_path / "seen.json"
    script.write_text(
        f"#!{sys.executable}\nimport json, os\njson.dump(dict(os.environ), open({str(seen)!r}, 'w'))\n"
    )
    script.chmod(0o755)
    compute = SparkCompute(
        python=str(script), master="yarn", conf={"spark.app.name": "two words"}, environment={"A": "1"}
    )
    assert compute.run(LAUNCH, {}).code == 0
    environment = json.loads(seen.read_text())
    assert environment[ENGINE] == "spark"
    assert (
        environment["PYSPARK_SUBMIT_ARGS"] == "--master yarn --conf 'spark.app.name=two words' pyspark-shell"
    )
    assert environment["A"] == "1"


def test_a_spark_compute_is_a_value_and_changes_field_by_field() -> None:
    compute = SparkCompute(conf={"spark.b": "1", "spark.a": 2})
    assert compute == SparkCompute(conf={"spark.a": "2", "spark.b": "1"})
    assert repr(compute) == repr(SparkCompute(conf={"spark.a": "2", "spark.b": "1"}))
    assert compute.but({"master": "yarn", "image": "x"}).master == "yarn"
    assert LocalCompute().but({"master": "yarn"}) == LocalCompute()
    assert KubernetesCompute(image="x").but({"conf": {}}) == KubernetesCompute(image="x")


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        ({"executor.memory": "8g"}, "'executor.memory' is no setting of Spark"),
        ({"spark.master": "yarn"}, "master="),
        ({"spark.submit.deployMode": "cluster"}, "the step is the driver"),
    ],
)
def test_settings_that_are_none_are_refused(conf: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SparkCompute(conf=conf)


def test_the_control_plane_and_other_steps_import_nothing_of_spark() -> None:
    code = (
        "import sys, airflow_ml_provider.compute.spark, airflow_ml_provider.steps.features, "
        "airflow_ml_provider.steps.predict; print([name for name in sys.modules if 'pyspark' in name])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


def test_the_documented_tasks_run_on_spark() -> None:
    import on_spark

    computes = {task.task_id: task.compute for task in on_spark.dag.tasks}
    assert set(computes) == {"features", "predict"}
    assert all(
        isinstance(compute, SparkCompute) and compute.master == "yarn" for compute in computes.values()
    )
