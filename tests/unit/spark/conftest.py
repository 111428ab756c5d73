"""Spark in local mode, one session for all tests of a process: it takes seconds to start."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from both_engines import Engines

from airflow_ml_provider.contract.documents import StepResult

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """Steps that run in this process find it, and leave it running."""
    pytest.importorskip("pyspark", reason="pyspark is installed in .venv-slow only: make test-slow")
    from pyspark.sql import SparkSession

    os.environ.setdefault("SPARK_DRIVER_MEMORY", "1g")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    folder = tmp_path_factory.mktemp("spark")
    builder = SparkSession.builder.master("local[2]")
    for name, value in {
        "spark.ui.enabled": "false",
        # Tables of a few rows: what makes large ones fast only takes time to compile.
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.local.dir": str(folder),
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
    }.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    logging.getLogger("py4j").setLevel(logging.WARNING)
    yield session
    session.stop()


@pytest.fixture
def engines(
    store: str, user_code: Callable[..., str], run_step: Callable[..., StepResult], spark: SparkSession
) -> Engines:
    """The same feature set in both kinds of functions, over tables that a test puts there."""
    return Engines(store, user_code, run_step)
