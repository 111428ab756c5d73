"""Whose failure it is when Spark computes what a user's function gave: the function's, the store's, the cluster's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from airflow_ml_provider.contract.errors import ConfigError, InfrastructureError, MLError, TransientError
from airflow_ml_provider.steps import functions

# As Python ends the traceback of an executor's process that wrote to the store.
_OURS = re.compile(
    r"^airflow_ml_provider\.contract\.errors\.(ConfigError|TransientError): (.+)$", re.MULTILINE
)
_KINDS: dict[str, type[MLError]] = {"ConfigError": ConfigError, "TransientError": TransientError}


@contextmanager
def blame(function: Callable[..., Any]) -> Iterator[None]:
    """Frames are computed inside that a user's function gave.

    :raises UserFunctionError: what they say cannot be computed: a column that is not there, a UDF that raises.
    :raises TransientError: an executor could not write to the store; or :class:`ConfigError`, where it may not.
    :raises InfrastructureError: Spark failed: an executor was lost, memory ran out.
    """
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except PySparkException as error:
        if found := _OURS.search(str(error)):
            raise _KINDS[found[1]](f"an executor of Spark {found[2]}") from error
        with functions.blame(function):
            raise
    except Py4JError as error:
        said = [line.strip() for line in str(error).splitlines() if "Exception:" in line or "Error:" in line]
        raise InfrastructureError(
            f"Spark failed while it computed what {functions.name_of(function)} gave: {(said or [str(error)])[0]}",
            todo="look at the driver's log above and at the executors': lost for want of memory, most often",
        ) from error
