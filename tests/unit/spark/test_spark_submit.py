"""A step that ``spark-submit`` starts, as the Spark operator does: it runs on the master that it was submitted to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from both_engines import DAYS, Engines, tables
from polars.testing import assert_frame_equal

from airflow_ml_provider.contract.documents import Code, RunOf, StepSpec
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.steps import spark_driver

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def submitted(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The driver by ``spark-submit``, on a master that no default would choose."""
    import pyspark

    settings = ["--master", "local[3]", "--conf", "spark.sql.shuffle.partitions=2"]
    program = str(Path(pyspark.__file__).parent / "bin" / "spark-submit")
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "AIRFLOW_ML_ENGINE": "spark"}
    environment["PYTHONPATH"] = str(Path(spark_driver.__file__).parents[2])
    return subprocess.run(
        [program, *settings, str(spark_driver.__file__), *arguments],
        env=environment, capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip


def test_a_submitted_step_runs_on_its_master_and_ends_with_its_exit_code(engines: Engines) -> None:
    for name, frame in tables(7, orders=10, visits=20).items():
        engines.put(name, frame, "ds" if name == "orders" else None)
    root = engines.code(on_spark="""
    def visited(visits: DataFrame) -> DataFrame:
        return visits.withColumn("long", F.when(F.col("pages").isNotNull(), F.col("pages") > 3))
    """)  # fmt: skip
    engines.built("here")
    spec = StepSpec(
        verb="features",
        store=engines.store,
        arguments={
            "features": "there:RETURNS",
            "tables": [{"name": name} for name in ("orders", "visits", "stock", "returns")],
            "publish": {"name": "rows_there"},
            "partitions": DAYS,
        },
        step_key="submitted",
        code=Code(roots=(root,)),
        run=RunOf(dag_id="a_dag", task_id="features", run_id="a_run"),
    )
    uri = Store(engines.store).write("runs/submitted/spec.json", spec.encode())
    refused = submitted("predict", "--spec", uri)
    assert refused.returncode == ConfigError.exit_code, refused.stdout + refused.stderr
    ran = submitted("features", "--spec", uri)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert " on local[3]" in ran.stdout
    assert_frame_equal(engines.rows("there"), engines.rows("here"), check_exact=True)
