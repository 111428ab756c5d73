"""A step started by SparkCompute: its own process is the driver, with executors in processes of their own."""

from __future__ import annotations

import logging
import os

import pytest
from both_engines import DAYS, Engines, tables
from polars.testing import assert_frame_equal

from airflow_ml_provider.compute import Launch, SparkCompute
from airflow_ml_provider.contract.documents import Code, RunOf, StepSpec
from airflow_ml_provider.contract.store import Store, local_path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_step_builds_its_rows_on_executors_and_ends_with_them(engines: Engines) -> None:
    for name, frame in tables(7, orders=40, visits=80).items():
        engines.put(name, frame, "ds" if name == "orders" else None)
    root = engines.code(
        on_spark="""
    from pyspark.sql.types import BooleanType

    @F.udf(BooleanType())
    def many(pages):
        return pages is not None and pages > 3

    def visited(visits: DataFrame) -> DataFrame:
        return visits.withColumn("long", F.when(F.col("pages").isNotNull(), many("pages")))
    """
    )
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
        step_key="on-executors",
        code=Code(roots=(root,)),
        run=RunOf(dag_id="a_dag", task_id="features", run_id="a_run"),
    )
    uri = Store(engines.store).write("runs/on-executors/spec.json", spec.encode())
    compute = SparkCompute(
        master="local-cluster[2,1,512]",
        conf={"spark.executor.memory": "512m", "spark.sql.shuffle.partitions": 2},
        environment={"SPARK_DRIVER_MEMORY": "1g", "SPARK_LOCAL_IP": "127.0.0.1"},
    )
    said: list[str] = []
    listening = logging.Handler(logging.INFO)
    listening.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("airflow_ml_provider.compute").addHandler(listening)
    try:
        ended = compute.run(Launch("on-executors", "features", uri, (root,)), {})
    finally:
        logging.getLogger("airflow_ml_provider.compute").removeHandler(listening)
    assert ended.code == 0, ended.last_lines
    assert " on local-cluster[2,1,512]" in "\n".join(said), "the master that was asked for"
    assert_frame_equal(engines.rows("there"), engines.rows("here"), check_exact=True)
    assert (local_path(engines.store) / "runs" / "on-executors" / "result.json").exists()
    assert not list(Store(engines.store).paths("aside"))
    assert os.environ.get("AIRFLOW_ML_ENGINE") is None
