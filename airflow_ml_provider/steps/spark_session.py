"""The Spark that a step works on: the one it was submitted to, or one on this machine.

A step that ``spark-submit`` started is a driver, and finds its master there. One that was not has it from
``PYSPARK_SUBMIT_ARGS`` (:class:`~airflow_ml_provider.compute.SparkCompute`) or from ``spark-defaults.conf``
(``SPARK_CONF_DIR``); without any, Spark runs in local mode, in this process's environment.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_ml_provider.contract.code import reachable_files
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.packing import archive_digest, files_of, pack
from airflow_ml_provider.steps.threads import processors

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from airflow_ml_provider.steps.context import StepContext

# Set by a compute whose steps are Spark drivers: verbs without a function of the user's run on Spark there too.
ENGINE = "AIRFLOW_ML_ENGINE"
_SETTINGS = {
    # A time without a zone is taken as UTC, on whatever machine.
    "spark.sql.session.timeZone": "UTC",
    # Partition values are text: "01" stays "01".
    "spark.sql.sources.partitionColumnTypeInference.enabled": "false",
}
_NEEDED = "install the extra: pip install 'airflow-ml-provider[spark]'; Spark needs Java 17 or newer too"


def wanted_here() -> bool:
    """Whether the place where the step runs asks for Spark."""
    return os.environ.get(ENGINE, "").strip().lower() == "spark"


def require_pyspark(why: str) -> None:
    """
    :raises ConfigError: PySpark is not installed here.
    """
    try:
        import pyspark  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "pyspark":
            raise
        raise ConfigError(f"{why}, and PySpark is not installed where the step runs", todo=_NEEDED) from None


@contextmanager
def session(step: StepContext, why: str) -> Iterator[SparkSession]:
    """The Spark session of a step; one that the step started ends here.

    :param why: what asks for Spark, for the message when there is none.
    :raises ConfigError: there is no PySpark, or Spark cannot be started.
    """
    require_pyspark(why)
    # Said of its pandas API and at every call of Arrow's; neither is used with pandas here.
    warnings.filterwarnings("ignore", message="PySpark does not yet fully support pandas")
    # It tells of each connection that it closes.
    logging.getLogger("py4j").setLevel(logging.WARNING)
    from pyspark.sql import SparkSession

    running = SparkSession.getActiveSession()
    spark = running or _started(step, why)
    set_up(spark)
    try:
        yield spark
    finally:
        if running is None:
            spark.stop()


def set_up(spark: SparkSession) -> None:
    """What point-in-time semantics rest on; set again after each function of the user's, which may change it."""
    for name, value in _SETTINGS.items():
        spark.conf.set(name, value)


def send_code(spark: SparkSession, step: StepContext, modules: Iterable[str]) -> None:
    """Give the executors the user's code: the packages that some modules reach, as one archive."""
    roots = step.spec.code.roots
    reached = reachable_files(sorted(modules), roots)
    files = files_of(roots, list(reached.values()))
    if files:
        content = pack(files)
        # Spark takes no other content under a name that it knows.
        path = step.scratch / f"user_code_{archive_digest(content)[:16]}.zip"
        path.write_bytes(content)
        spark.sparkContext.addPyFile(str(path))


def _started(step: StepContext, why: str) -> SparkSession:
    from pyspark import SparkConf, SparkContext
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    os.environ.setdefault("SPARK_DRIVER_MEMORY", f"{_driver_megabytes()}m")
    # Executors beside the driver are of the same environment.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    try:
        # Only Spark's own process knows what it was submitted with; before it runs, a configuration is empty and
        # what we set where nothing is set would replace the master.
        SparkContext._ensure_initialized()
        conf = SparkConf()
        conf.setIfMissing("spark.master", f"local[{processors()}]")
        conf.setIfMissing("spark.app.name", step.key or "airflow-ml-step")
        conf.setIfMissing("spark.ui.enabled", "false")
        # PySpark turns it on; a log has no line to write over.
        conf.set("spark.ui.showConsoleProgress", "false")
        if str(conf.get("spark.master")).startswith("local"):
            conf.setIfMissing("spark.local.dir", str(step.scratch / "spark"))
            conf.setIfMissing("spark.sql.shuffle.partitions", str(4 * processors()))
            # Nobody but this process speaks to it.
            conf.setIfMissing("spark.driver.bindAddress", "127.0.0.1")
            conf.setIfMissing("spark.driver.host", "127.0.0.1")
        for name, value in _SETTINGS.items():
            conf.set(name, value)
        spark = SparkSession.builder.config(conf=conf).getOrCreate()
    except (PySparkException, OSError) as error:
        without = "" if _java() else " (no Java was found: neither JAVA_HOME nor a java on the PATH)"
        raise ConfigError(
            f"{why}, and Spark could not be started{without}: {str(error).splitlines()[0]}", todo=_NEEDED
        ) from error
    step.log.info("Spark %s on %s", spark.version, spark.sparkContext.master)
    return spark


def _java() -> bool:
    home = os.environ.get("JAVA_HOME")
    return bool(home and (Path(home) / "bin" / "java").exists()) or shutil.which("java") is not None


def _driver_megabytes() -> int:
    """A quarter of the memory: in local mode the driver is executor too, and Python's processes need theirs."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with suppress(OSError, ValueError):
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return max(1024, min(limits) // 4 // 2**20)
