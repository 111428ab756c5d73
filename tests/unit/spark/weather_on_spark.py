"""Features of flights on Spark, as docs/spark.md shows them."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from airflow_ml_provider import FeatureSet, FeatureView


def flown(flights: DataFrame) -> DataFrame:
    two_hours_before = F.col("time_hour") - F.expr("INTERVAL 2 HOURS")
    return flights.select("flight_id", "ds", "origin", "tailnum", "distance", two_hours_before.alias("at"))


def observed(weather: DataFrame) -> DataFrame:
    return weather.withColumn("told", F.col("time_hour") + F.expr("INTERVAL 75 MINUTES"))


def tail(flights: DataFrame) -> DataFrame:
    return flights.withColumn("landed", F.col("time_hour") + F.expr("INTERVAL 6 HOURS"))


WEATHER = FeatureView(
    "weather",
    observed,
    by=("origin",),
    event_time="time_hour",
    knowledge_time="told",
    features=("temp", "wind_gust", "visib"),
    max_age="6h",
)
TAIL = FeatureView(
    "tail",
    tail,
    by=("tailnum",),
    event_time="landed",
    knowledge_time="landed",
    features=("arr_delay", "dest"),
)
FLIGHTS = FeatureSet(
    rows=flown,
    key=("flight_id",),
    prediction_time="at",
    views=(WEATHER, TAIL),
    row_features=("distance",),
    keep=("origin",),
)
