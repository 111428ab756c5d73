"""Steps as drivers of Spark: beside the Airflow task, with executors wherever the master has them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from airflow_ml_provider.compute.base import Launch
from airflow_ml_provider.compute.local import LocalCompute
from airflow_ml_provider.contract.errors import ConfigError

# As `airflow_ml_provider.steps.spark_session` reads it; the control plane imports nothing of the steps.
ENGINE = "AIRFLOW_ML_ENGINE"
# The master has its own field, and a driver elsewhere would not be the step's process.
_NOT_HERE = {"spark.master": "master=", "spark.submit.deployMode": "nothing: the step is the driver"}


@dataclass(frozen=True)
class SparkCompute(LocalCompute):
    """A subprocess beside the Airflow task that is a Spark driver (client mode); ends with the task.

    Feature sets whose functions ask for Spark frames run on the executors, and so does prediction. The other verbs
    run in the driver's process, as with :class:`LocalCompute`. The executors need this package, the libraries of
    the models, and the store's and MLflow's credentials in their environment.

    :param python: the interpreter of the driver, one that has this package and PySpark installed; the worker's
        own by default.
    :param environment: more environment variables of the driver, as a mapping or pairs. They show in the DAG: no
        secrets.
    :param master: as ``spark-submit --master`` takes it: ``local[*]``, ``yarn``, ``spark://host:7077``. Empty
        leaves it to ``spark-defaults.conf``.
    :param conf: Spark's settings, as a mapping or pairs: ``{"spark.executor.memory": "8g"}``. They show in the
        DAG: no secrets.
    """

    master: str = "local[*]"
    conf: Mapping[str, str] | tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        conf = {name: str(value) for name, value in dict(self.conf).items()}
        object.__setattr__(self, "conf", tuple(sorted(conf.items())))
        for name, value in conf.items():
            if not name.startswith("spark."):
                raise ConfigError(
                    f"{name!r} is no setting of Spark",
                    todo='their names begin with "spark.": SparkCompute(conf=...)',
                )
            if name in _NOT_HERE:
                raise ConfigError(
                    f"SparkCompute(conf=...) sets {name}={value}", todo=f"give {_NOT_HERE[name]}"
                )

    def _environment(self, launch: Launch) -> dict[str, str]:
        settings = [part for name, value in dict(self.conf).items() for part in ("--conf", f"{name}={value}")]
        master = ["--master", self.master] if self.master else []
        submitted = shlex.join([*master, *settings, "pyspark-shell"])
        # What the deployment put there for its own Spark does not reach a step with settings of its own.
        return {**super()._environment(launch), ENGINE: "spark", "PYSPARK_SUBMIT_ARGS": submitted}
