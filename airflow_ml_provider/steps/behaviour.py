"""Behavioural tests: a module of plain functions ``test_*`` that are given the model and assert something.

Each is a line of the verdict (after Ribeiro et al. 2020, Beyond Accuracy: Behavioral Testing of NLP models
with CheckList, ACL). They know nothing of this package, so pytest can run them, too.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from airflow_ml_provider.contract.errors import ConfigError, DataError
from airflow_ml_provider.steps import functions, known_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.models import ScoringModel

# Tests get so many rows at most: enough for a direction, few enough to score them again and again.
SAMPLE_ROWS = 2_000
_LONGEST = 500


class TestedModel:
    """The model as a behavioural test sees it.

    :ivar name: ``"flight_delays/3"``.
    :ivar features: the names of its features, in its order.
    """

    __test__ = False  # its name looks like a test class's

    def __init__(self, model: ScoringModel) -> None:
        self._model = model
        self.name = model.name
        self.features = list(model.inputs.features)

    def score(self, frame: Any) -> NDArray[np.float64]:
        """The probability of class 1 for each row.

        :param frame: a polars or pandas frame, or an Arrow table, with the features, and the columns whose
            values the model was trained to check; others are ignored.
        :raises DataError: a feature is missing or of another type, or a value is not known.
        """
        rows = _as_polars(frame)
        inputs = self._model.inputs
        # A column of nothing has no type of its own.
        empty = [name for name in inputs.features if rows.schema.get(name) == pl.Null]
        kinds = [pl.col(name).cast(pl.String if name in inputs.texts else pl.Float64) for name in empty]
        rows = rows.with_columns(kinds)
        inputs.check(rows.schema, self.name)
        known_values.check(self._model, rows.lazy())
        return self._model.scores(rows.select(inputs.expressions()))


@dataclass(frozen=True)
class Line:
    """One test's outcome.

    :param test: the function's name.
    :param text: the first line of its docstring, or its name in words.
    :param message: why it failed; empty where it passed.
    """

    test: str
    text: str
    passed: bool
    message: str = ""

    def document(self) -> dict[str, Any]:
        """As it stands in a verdict."""
        return {"test": self.test, "text": self.text, "passed": self.passed, "message": self.message}


def load_tests(step: StepContext, module: str) -> list[Callable[..., Any]]:
    """The test functions of a module, in the order they are written in.

    :raises ConfigError: what is named is no module, or has no test function.
    :raises UserCodeError: there is no such module, or importing it raised.
    """
    if ":" in module:
        raise ConfigError(
            f"behaviour={module!r} names a function", todo=f"name the module: {module.partition(':')[0]!r}"
        )
    loaded = sys.modules[functions.user_code(step, f"{module}:__name__")]
    found = [each for name, each in vars(loaded).items() if name.startswith("test_") and callable(each)]
    if not found:
        raise ConfigError(
            f"the module {module!r} has no behavioural test", todo="write functions named test_... in it"
        )
    return found


def run_tests(
    tests: Sequence[Callable[..., Any]], model: ScoringModel, rows: pl.DataFrame, scratch: Path | None = None
) -> list[Line]:
    """Run every test; those that come after a failed one, too.

    :param rows: what a test gets that asks for ``rows``.
    :raises UserCodeError: a test asks for something that is not there.
    """
    return [_run(test, TestedModel(model), rows, scratch) for test in tests]


def _run(test: Callable[..., Any], model: TestedModel, rows: pl.DataFrame, scratch: Path | None) -> Line:
    failures: list[str] = []

    # Only what happens inside is the test's outcome; that it cannot be called is an error of the step.
    @functools.wraps(test)
    def caught(**given: Any) -> None:
        try:
            result = test(**given)
            if inspect.iscoroutine(result):
                result.close()
                failures.append("it is asynchronous, and was not run")
        except AssertionError as error:
            failures.append(_first(error) or "an assertion failed")
        except (KeyboardInterrupt, MemoryError):
            raise
        except BaseException as error:  # pytest.fail() and sys.exit() are no Exceptions
            failures.append(f"raised {type(error).__name__}: {_first(error)}".rstrip(": "))

    functions.call(caught, frames={"rows": rows.lazy()}, values={"model": model}, scratch=scratch)
    text = (inspect.getdoc(test) or "").strip().partition("\n")[0]
    name = test.__name__
    return Line(name, text or name.removeprefix("test_").replace("_", " "), not failures, *failures)


def _first(error: BaseException) -> str:
    lines = str(getattr(error, "what", "") or error).strip().splitlines()
    # pytest adds its own explanation below.
    return lines[0][:_LONGEST] if lines else ""


def _as_polars(frame: Any) -> pl.DataFrame:
    if isinstance(frame, pl.LazyFrame):
        return frame.collect(engine="streaming")
    if isinstance(frame, pl.DataFrame):
        return frame
    package = type(frame).__module__.partition(".")[0]
    found: Any = None
    if package in ("pandas", "pyarrow"):
        found = pl.from_pandas(frame) if package == "pandas" else pl.from_arrow(frame)
    if not isinstance(found, pl.DataFrame):
        raise DataError(f"a {type(frame).__name__} was given to score; it takes a polars or pandas frame")
    return found
