"""A feature definition: the declared set, its hash, and the roles of the columns it makes."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_ml_provider.contract.code import reachable_files, split_entry_point
from airflow_ml_provider.contract.errors import ConfigError, DataError, UserCodeError
from airflow_ml_provider.contract.features import FeatureSet
from airflow_ml_provider.contract.identity import digest, document_digest
from airflow_ml_provider.steps import functions

if TYPE_CHECKING:
    from airflow_ml_provider.contract.store import Store
    from airflow_ml_provider.steps.context import StepContext

# Part of the hash: a change in how rows and facts are joined makes other features of the same definition.
_JOIN = 1


class Roles(msgspec.Struct, frozen=True):
    """What the columns of a table of feature rows are for; kept beside the table, one document a hash.

    :param features: in the order a model gets them.
    :param label: the set's label, whether or not a table of rows to predict has its column.
    """

    feature_hash: str
    key: tuple[str, ...]
    prediction_time: str
    features: tuple[str, ...]
    entry_point: str
    partition_by: str | None = None
    label: str | None = None
    keep: tuple[str, ...] = ()

    @classmethod
    def of(cls, features: FeatureSet, entry_point: str, feature_hash: str, partition_by: str | None) -> Roles:
        """The roles of the columns that a set makes."""
        return cls(
            feature_hash,
            features.key,
            features.prediction_time,
            features.features,
            entry_point,
            partition_by,
            features.label.name if features.label else None,
            features.keep,
        )

    def write(self, store: Store, table: str) -> None:
        """Keep the document; equal hashes write equal bytes."""
        store.write_json(_path(table, self.feature_hash), msgspec.to_builtins(self))


def read_roles(store: Store, table: str, feature_hash: str) -> Roles:
    """The roles of the rows that a definition made in a table.

    :raises DataError: there is no such document: the rows were not published by a features step.
    """
    path = _path(table, feature_hash)
    document = store.read_json(path)
    if document is None:
        raise DataError(
            f"table {table!r} has rows of feature definition {feature_hash[:12]}, and the document that says "
            f"what their columns are is missing: {path}",
            todo="build the rows again with a features step",
        )
    return msgspec.convert(document, Roles)


def load(step: StepContext, entry_point: str) -> FeatureSet:
    """The feature set that an entry point names.

    :raises UserCodeError: it names something else.
    """
    found = functions.user_code(step, entry_point)
    if not isinstance(found, FeatureSet):
        raise UserCodeError(
            f"{entry_point!r} is a {type(found).__name__}, not a FeatureSet",
            todo="declare it: FeatureSet(rows=..., key=..., prediction_time=..., views=...)",
        )
    return found


def asks_for_spark(features: FeatureSet) -> bool:
    """Whether a feature set's functions ask for Spark frames.

    :raises ConfigError: some do and some do not.
    """
    there = functions_of(features)
    on_spark = [function for function in there if functions.asks_for_spark(function)]
    others = [function for function in there if function not in on_spark]
    if on_spark and others:
        raise ConfigError(
            f"{functions.name_of(on_spark[0])} asks for a Spark frame and {functions.name_of(others[0])} does not: "
            "all functions of a feature set are run by one engine",
            todo="annotate the tables of all of them with pyspark.sql.DataFrame, or of none",
        )
    return bool(on_spark)


def feature_hash(features: FeatureSet, entry_point: str, roots: tuple[str, ...]) -> str:
    """The identity of a definition: what is declared, and all code that its functions can reach.

    The same for training and prediction, whatever the tables, partitions and labels; files that the
    feature code does not import (the model's, say) do not count.
    """
    modules = {
        split_entry_point(entry_point)[0],
        *(plain(each).__module__ for each in functions_of(features)),
    }
    files = {**_installed_sources(modules), **reachable_files(sorted(modules), roots)}
    parts: list[str | bytes] = [
        document_digest({"declared": _declared(features), "join": _JOIN, "is": entry_point})
    ]
    for module in sorted(files):
        parts += [module, files[module].read_bytes().replace(b"\r\n", b"\n")]
    return digest(*parts)


def _path(table: str, feature_hash: str) -> str:
    return f"tables/{table}/_ml/features-{feature_hash}.json"


def functions_of(features: FeatureSet) -> list[Callable[..., Any]]:
    """All functions of a set: of its rows, views, label and as_known."""
    label = [features.label.function] if features.label else []
    return [features.rows, *(view.function for view in features.views), *label, *features.as_known.values()]


def plain(function: Callable[..., Any]) -> Any:
    """The function itself, where some of its arguments are given already."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _installed_sources(modules: set[str]) -> dict[str, Path]:
    # Functions from an installed package are below no code root; their module's own source stands for them.
    sources = {module: getattr(sys.modules.get(module), "__file__", None) for module in modules}
    return {module: Path(source) for module, source in sources.items() if source}


def _declared(features: FeatureSet) -> dict[str, Any]:
    def name(function: Callable[..., Any]) -> str:
        return functions.name_of(plain(function))

    def fields(declared: Any) -> dict[str, Any]:
        return {key: name(value) if callable(value) else value for key, value in vars(declared).items()}

    return {
        **fields(features),
        "views": [fields(view) for view in features.views],
        "label": _given(fields(features.label)) if features.label else None,
        "as_known": {table: name(function) for table, function in features.as_known.items()},
    }


def _given(declared: dict[str, Any]) -> dict[str, Any]:
    # A kind of time that a label does not have leaves the hash of its definition as it always was.
    return {key: value for key, value in declared.items() if value is not None}
