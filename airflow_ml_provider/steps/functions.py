"""Calling the user's functions: each gets what it asks for, by parameter name and annotation.

A parameter named as a table gets that table in the form its annotation names; other parameters get values
by name (``params``, ``seed``, ...) or by the type they are annotated with (``Checkpoint``). Where there is
one table and one parameter with a frame's annotation, its name is free. The user's function sees nothing
else of this package.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from airflow_ml_provider.contract.code import split_entry_point
from airflow_ml_provider.contract.errors import ConfigError, MLError, UserCodeError, did_you_mean

# Not every function works on frames, and Polars takes longer to import than such a function takes.
if TYPE_CHECKING:
    import polars as pl

    from airflow_ml_provider.steps.context import StepContext

_PACKAGE_FOLDER = str(Path(__file__).parent)

# The last two parts of an annotation's qualified name, as people import these types.
_FORMS = {
    "LazyFrame": "polars.LazyFrame",
    "polars.DataFrame": "polars.DataFrame",
    "pl.DataFrame": "polars.DataFrame",
    "pandas.DataFrame": "pandas.DataFrame",
    "pd.DataFrame": "pandas.DataFrame",
    "pyarrow.Table": "pyarrow.Table",
    "pa.Table": "pyarrow.Table",
    "pyarrow.dataset.Dataset": "pyarrow.dataset.Dataset",
    "pa.dataset.Dataset": "pyarrow.dataset.Dataset",
    "ds.Dataset": "pyarrow.dataset.Dataset",
    "pyspark.sql.DataFrame": "pyspark.sql.DataFrame",
    "pyspark.DataFrame": "pyspark.sql.DataFrame",
    "pathlib.Path": "pathlib.Path",
    "Path": "pathlib.Path",
}
# Of rows that are in memory already.
_HELD_AS: dict[str, Callable[[pl.DataFrame], Any]] = {
    "polars.DataFrame": lambda frame: frame,
    "pandas.DataFrame": lambda frame: frame.to_pandas(),
    "pyarrow.Table": lambda frame: frame.to_arrow(),
}
FRAME_FORMS = (
    "pl.LazyFrame",
    "pl.DataFrame",
    "pd.DataFrame",
    "pa.Table",
    "pa.dataset.Dataset",
    "pathlib.Path",
)


# Not for every step: the functions of a feature set may ask for it.
SPARK_FORM = "pyspark.sql.DataFrame"


class UserFunctionError(UserCodeError):
    """The user's function raised; ``user_traceback`` holds its own frames, the newest last."""

    def __init__(self, what: str, user_traceback: str, **parts: str) -> None:
        super().__init__(what, **parts)
        self.user_traceback = user_traceback


def load(entry_point: str, roots: tuple[str, ...] = ()) -> Any:
    """Import what ``"package.module:name"`` names.

    :raises UserCodeError: no such module or name (the nearest are listed), or the import itself raised.
    """
    module_name, name = split_entry_point(entry_point)
    for root in reversed(roots):
        if root not in sys.path:
            sys.path.insert(0, root)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            raise UserCodeError(
                f"there is no module {error.name!r} to import {entry_point!r} from",
                todo=f"code is looked for in {', '.join(roots) or 'sys.path'}",
            ) from error
        if (error.name or "").partition(".")[0] == "pyspark":
            from airflow_ml_provider.steps.spark_session import require_pyspark

            require_pyspark(f"{module_name}, where {name!r} is, imports Spark")
        raise _raised(f"importing {module_name}", error) from error
    except Exception as error:
        raise _raised(f"importing {module_name}", error) from error
    if not hasattr(module, name):
        known = [n for n in vars(module) if not n.startswith("_")]
        raise UserCodeError(f"module {module_name!r} has no {name!r}", todo=did_you_mean(name, known))
    return getattr(module, name)


def call(
    function: Callable[..., Any],
    *,
    frames: Mapping[str, Any] | None = None,
    values: Mapping[str, Any] | None = None,
    typed: Mapping[type, Any] | None = None,
    scratch: Path | None = None,
) -> Any:
    """Call a user's function with what it asks for.

    :param frames: tables it may ask for, by name: lazy frames, DataFrames that are in memory already, or Spark
        frames where Spark runs the function.
    :param values: other things it may ask for, by name.
    :param typed: things it may ask for by annotation, whatever the parameter's name, or without one by the
        type's name in lower case.
    :param scratch: where a table is laid down for a function that asks for a Path or a Dataset.
    :raises UserCodeError: it asks for something that is not there, or in a form that is not known.
    :raises UserFunctionError: it raised.
    """
    given = _bind(function, frames or {}, values or {}, typed or {}, scratch)
    with blame(function):
        return function(**given)


def call_for_frame(function: Callable[..., Any], **given: Any) -> pl.LazyFrame:
    """:func:`call` a function that must give a frame; any known kind of frame is taken."""
    import polars as pl

    result = call(function, **given)
    if isinstance(result, pl.LazyFrame):
        return result
    if isinstance(result, pl.DataFrame):
        return result.lazy()
    if type(result).__module__.partition(".")[0] in ("pandas", "pyarrow"):
        if hasattr(result, "to_table"):
            return pl.scan_pyarrow_dataset(result)
        frame = pl.from_pandas(result) if hasattr(result, "iloc") else pl.from_arrow(result)
        return frame.to_frame().lazy() if isinstance(frame, pl.Series) else frame.lazy()
    raise UserCodeError(
        f"{name_of(function)} gave {type(result).__name__}, not a frame",
        todo=f"return one of {', '.join(FRAME_FORMS[:5])}",
    )


def asks_for_spark(function: Callable[..., Any]) -> bool:
    """Whether a user's function asks for a table as a Spark frame; nothing of Spark is imported."""
    return any(
        _form(parameter.annotation) == SPARK_FORM for parameter in _signature(function).parameters.values()
    )


@contextmanager
def blame(function: Callable[..., Any]) -> Iterator[None]:
    """Whatever is raised inside is the user's function's doing; lazy frames raise late, when collected."""
    try:
        yield
    except MLError:
        raise
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except Exception as error:
        raise _raised(name_of(function), error) from error


def name_of(function: Callable[..., Any]) -> str:
    """``package.module:function``, as the user wrote it."""
    return f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', repr(function))}"


def parameters_of(function: Callable[..., Any]) -> list[str]:
    """The parameter names of a user's function."""
    return list(inspect.signature(function).parameters)


def _raised(who: str, error: BaseException) -> UserFunctionError:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith((_PACKAGE_FOLDER, "<frozen"))]
    text = "Traceback (most recent call last):\n" + "".join(traceback.format_list(own or frames))
    text += "".join(traceback.format_exception_only(error))
    first = str(error).strip().splitlines()[0] if str(error).strip() else ""
    where = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    return UserFunctionError(f"{who} raised {type(error).__name__}: {first}{where}", text)


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except Exception:
        # A name imported for type checkers only cannot be evaluated; its spelling has to do then.
        return inspect.signature(function)


def _form(annotation: Any) -> str | None:
    if isinstance(annotation, str):
        text = annotation
    else:
        module, name = getattr(annotation, "__module__", ""), getattr(annotation, "__name__", "")
        text = f"pyarrow.dataset.{name}" if "dataset" in module else f"{module.partition('.')[0]}.{name}"
    for spelled, form in _FORMS.items():
        if text == spelled or text.endswith("." + spelled):
            return form
    return None


def _bind(
    function: Callable[..., Any],
    frames: Mapping[str, Any],
    values: Mapping[str, Any],
    typed: Mapping[type, Any],
    scratch: Path | None,
) -> dict[str, Any]:
    who = name_of(function)
    signature = _signature(function)
    offered = _offer(frames, values, typed)
    wants_frame = [p for p in signature.parameters.values() if _form(p.annotation) is not None]
    given: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
            raise UserCodeError(f"{who}: parameter {name!r} cannot be given by name", todo=offered)
        form = _form(parameter.annotation)
        frame = frames.get(name)
        if frame is None and form is not None and name not in values and len(frames) == 1 == len(wants_frame):
            frame = next(iter(frames.values()))
        if frame is not None:
            if form is None:
                said = (
                    "no annotation"
                    if parameter.annotation is parameter.empty
                    else f"{parameter.annotation!r}"
                )
                raise UserCodeError(
                    f"{who}: parameter {name!r} is a table and has {said}, so its form is unknown",
                    todo=f"annotate it with one of {', '.join(FRAME_FORMS)}",
                )
            given[name] = _as_form(frame, form, name, scratch)
        elif name in values:
            given[name] = values[name]
        elif (kind := _wanted_type(parameter, typed)) is not None:
            given[name] = typed[kind]
        elif parameter.default is parameter.empty:
            near = did_you_mean(name, [*frames, *values])
            raise UserCodeError(
                f"{who} asks for {name!r}, which is not available here", todo=f"{near} {offered}"
            )
    return given


def _wanted_type(parameter: inspect.Parameter, typed: Mapping[type, Any]) -> type | None:
    """The type, of those on offer, that a parameter asks for: ``Checkpoint``, ``Checkpoint | None``."""
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return next((kind for kind in typed if kind.__name__.lower() == parameter.name), None)
    if isinstance(annotation, str):
        names = {part.rpartition(".")[2] for part in re.findall(r"[\w.]+", annotation)}
    else:
        names = {getattr(part, "__name__", "") for part in (annotation, *get_args(annotation))}
    return next((kind for kind in typed if kind.__name__ in names), None)


def _offer(frames: Mapping[str, Any], values: Mapping[str, Any], typed: Mapping[type, Any]) -> str:
    said = []
    if frames:
        said.append(f"tables: {', '.join(sorted(frames))} (as {', '.join(FRAME_FORMS)})")
    if values:
        said.append(f"values: {', '.join(sorted(values))}")
    if typed:
        said.append(f"by annotation: {', '.join(sorted(kind.__name__ for kind in typed))}")
    return "available: " + "; ".join(said)


def _as_form(frame: Any, form: str, name: str, scratch: Path | None) -> Any:
    import polars as pl

    if isinstance(frame, pl.DataFrame):
        if form in _HELD_AS:
            return _HELD_AS[form](frame)
        frame = frame.lazy()
    if form == SPARK_FORM or not isinstance(frame, pl.LazyFrame):
        if form == SPARK_FORM and not isinstance(frame, pl.LazyFrame):
            return frame
        here, there = (
            ("Spark", form) if form != SPARK_FORM else ("the single-machine engine", "a Spark frame")
        )
        raise ConfigError(
            f"table {name!r} was asked for as {there}, and this function is run by {here}",
            todo="the functions of a feature set run on Spark, when all of them ask for Spark frames; others ask "
            f"for one of {', '.join(FRAME_FORMS)}",
        )
    if form == "polars.LazyFrame":
        return frame
    if form == "polars.DataFrame":
        return frame.collect(engine="streaming")
    if form == "pandas.DataFrame":
        return frame.collect(engine="streaming").to_pandas()
    if form == "pyarrow.Table":
        return frame.collect(engine="streaming").to_arrow()
    if scratch is None:
        raise UserCodeError(f"a table cannot be given as {form} here", todo="ask for pl.LazyFrame")
    folder = scratch / f"table-{name}"
    if not folder.exists():
        folder.mkdir(parents=True)
        frame.sink_parquet(folder / "part-0.parquet")
    if form == "pathlib.Path":
        return folder
    import pyarrow.dataset as pads

    return pads.dataset(folder, format="parquet")


def user_code(step: StepContext, entry_point: str) -> Any:
    """Load an entry point of the step's code."""
    return load(entry_point, step.spec.code.roots)
