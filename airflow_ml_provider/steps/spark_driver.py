"""What ``spark-submit`` starts to have a step as its driver; takes the arguments of
``python -m airflow_ml_provider.steps``.

:class:`~airflow_ml_provider.compute.SparkKubernetesCompute` names this file as the application of a SparkApplication.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> int:
    """Run the step; gives its exit code, which ``spark-submit`` ends with too."""
    # Python puts the folder of a script first: modules of this package would hide others of their names.
    here = str(Path(__file__).parent)
    sys.path[:] = [each for each in sys.path if each != here]
    if "PYSPARK_GATEWAY_PORT" in os.environ:
        from pyspark import SparkContext

        # What the application was submitted with (its master, its settings) is known in its Java process. Settings
        # that are put together before there is a connection to it do not know of it, and would run Spark here.
        SparkContext._ensure_initialized()
    from airflow_ml_provider.steps.__main__ import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
