"""Steps on Spark: the tasks that docs/spark.md shows."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_ml_provider import Model, Table
from airflow_ml_provider.compute import SparkCompute
from airflow_ml_provider.operators import FeaturesOperator, PredictOperator

DAYS = "2013-06-01..2013-06-30"

EMR = SparkCompute(master="yarn", conf={"spark.executor.memory": "8g", "spark.executor.instances": "20"})

with DAG("on_spark") as dag:
    rows = FeaturesOperator(
        task_id="features",
        features="weather_on_spark:FLIGHTS",
        tables=[Table("flights"), Table("weather")],
        partitions=DAYS,
        labels=False,
        publish=Table("flights_to_predict"),
        compute=EMR,
    )
    PredictOperator(
        task_id="predict",
        model=Model("flight_delays"),
        table=rows.output,
        partitions=DAYS,
        publish=Table("flight_predictions"),
        compute=EMR,
    )
