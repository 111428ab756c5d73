"""What a step is pinned to before it runs: table versions, model versions, the user's code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.contract.code import code_digest, file_digests, split_entry_point
from airflow_ml_provider.contract.documents import Code
from airflow_ml_provider.contract.errors import ConfigError, DataError
from airflow_ml_provider.contract.identity import digest
from airflow_ml_provider.contract.models import Model, as_model
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.contract.tables import Table, as_table

if TYPE_CHECKING:
    from airflow_ml_provider.hooks.mlflow import MlflowHook


class Pins:
    """Turns what a DAG author passed into what a step reads, at one version each.

    :param wanted_by: the task, for messages.
    """

    def __init__(self, store: Store, *, wanted_by: str) -> None:
        self.store = store
        self.wanted_by = wanted_by

    @cached_property
    def hook(self) -> MlflowHook:
        """MLflow; imported and looked up only by steps that need it."""
        from airflow_ml_provider.hooks.mlflow import MlflowHook

        return MlflowHook()

    def table(self, value: Any) -> Table:
        """A table at the version it was given with, or at its newest.

        :raises DataError: there is no such table yet.
        """
        table = as_table(value, wanted_by=self.wanted_by)
        if table.version is not None:
            return table
        version = self.store.latest_version(table.name)
        if version is None:
            raise DataError(
                f"{self.wanted_by} reads the table {table.name!r}, and there is none in {self.store.uri}",
                kept="nothing was read or written",
                todo=f"run the step that publishes {table.name!r} first",
            )
        return table.at(version)

    def tables(self, values: Any) -> tuple[Table, ...]:
        """Several tables; one alone is taken for a list of it."""
        several = [values] if isinstance(values, (str, Table, Mapping)) else values
        return tuple(self.table(value) for value in several)

    def model(self, value: Any) -> Model:
        """A model at the version it was given with, or at the one its alias names now."""
        model = as_model(value, wanted_by=self.wanted_by)
        return model if model.version is not None else model.at(self.hook.resolve(model).version)

    def existing_model(self, model: Model) -> Model | None:
        """A model at the version that its alias names now, None if it names none."""
        found = self.hook.find(model)
        return model.at(found.version) if found else None


def code_of(entry_points: Iterable[str | None], roots: tuple[str, ...], commit: str) -> Code:
    """The user's code behind entry points: where it lies, what it is, the commit it was at.

    A suite may be a JSON file instead of a function; it is looked for below the same folders.
    """
    given = [entry for entry in entry_points if entry]
    files = [entry for entry in given if entry.endswith(".json")]
    modules = [split_entry_point(entry)[0] for entry in given if entry not in files]
    found = code_digest(modules, roots) if modules else ""
    if files:
        found = digest(found, *(_read(name, roots) for name in files))
    return Code(
        roots=roots, digest=found, commit=commit, files=file_digests(modules, roots) if modules else {}
    )


def code_roots(code: Any, dag_file: str, bundle: str | None) -> tuple[str, ...]:
    """The folders that the user's code is imported from: those named, or the DAG file's and its bundle's.

    :raises ConfigError: a folder that was named does not exist.
    """
    folder = Path(dag_file).resolve().parent
    if code is None:
        found = [folder, *([Path(bundle)] if bundle else [])]
        return tuple(dict.fromkeys(str(root) for root in found))
    named = [folder / root for root in ([code] if isinstance(code, (str, Path)) else code)]
    for root in named:
        if not root.is_dir():
            raise ConfigError(f"the code folder {root} does not exist", todo="check code= of the operator")
    return tuple(str(root.resolve()) for root in named)


def commit_of(roots: Iterable[str]) -> str:
    """The git commit checked out above the first of the folders that has one, read without running git."""
    for root in roots:
        for folder in (Path(root), *Path(root).parents):
            head = folder / ".git" / "HEAD"
            if head.is_file():
                return _commit_at(folder / ".git", head.read_text().strip())
    return ""


def _commit_at(repository: Path, head: str) -> str:
    name = head.removeprefix("ref: ")
    if name == head:
        return head
    loose = repository / name
    if loose.is_file():
        return loose.read_text().strip()
    packed = repository / "packed-refs"
    lines = packed.read_text().splitlines() if packed.is_file() else []
    return next((line.split(" ")[0] for line in lines if line.endswith(f" {name}")), "")


def _read(name: str, roots: tuple[str, ...]) -> bytes:
    for root in roots:
        path = Path(root) / name
        if path.is_file():
            return path.read_bytes()
    raise ConfigError(f"there is no file {name!r} below {', '.join(roots)}")
