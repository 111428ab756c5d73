"""A step's surroundings without consequences: it reads what there is, and what it writes goes nowhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from airflow_ml_provider.contract.documents import ModelVersion, StepSpec
from airflow_ml_provider.contract.models import Model
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.steps.tracking import TrackedRun, Tracker

_READS = ("get_", "search_", "list_", "download_")


class ScratchStore(Store):
    """The store as it is, but what is written lies on local disk, and so do the tables to be published.

    :param folder: an empty folder.
    :param tables: they begin empty, whatever is published under their names.
    """

    def __init__(self, uri: str, folder: Path, tables: frozenset[str]) -> None:
        super().__init__(uri)
        self.own = Store(str(folder))
        self._prefixes = ("runs/", "aside/", *(f"tables/{name}/" for name in tables))
        self._tables = tables

    def table_uri(self, name: str) -> str:
        """Where the table of this name lives."""
        return self.own.table_uri(name) if name in self._tables else super().table_uri(name)

    def aside_uri(self, table: str, step_key: str) -> str:
        """Where a partition waits for its audit."""
        return self.own.aside_uri(table, step_key)

    def run_uri(self, step_key: str, name: str = "") -> str:
        """A document of a step's run."""
        return self.own.run_uri(step_key, name)

    def relative(self, uri: str) -> str:
        """The path under this store of a URI in it."""
        return self.own.relative(uri) if uri.startswith(f"{self.own.uri}/") else super().relative(uri)

    def read(self, path: str) -> bytes | None:
        """What was written here, else what there is."""
        found = self.own.read(path)
        return found if found is not None or self._is_own(path) else super().read(path)

    def exists(self, path: str) -> bool:
        """Whether there is a document, here or there."""
        return self.own.exists(path) or (not self._is_own(path) and super().exists(path))

    def write(self, path: str, content: bytes) -> str:
        """Write a document here."""
        return self.own.write(path, content)

    def create(self, path: str, content: bytes) -> bool:
        """Write a document here, if there is none, here or there."""
        return not self.exists(path) and self.own.create(path, content)

    def delete(self, path: str) -> None:
        """Remove what was written here."""
        self.own.delete(path)

    def paths(self, prefix: str, *, after: str | None = None) -> Iterator[str]:
        """Paths of the documents below a prefix, here and there."""
        mine = set(self.own.paths(prefix, after=after))
        yield from mine
        if not self._is_own(f"{prefix}/"):
            yield from (path for path in super().paths(prefix, after=after) if path not in mine)

    def _is_own(self, path: str) -> bool:
        return path.startswith(self._prefixes)


class SilentTracker(Tracker):
    """MLflow as it is, but nothing is logged, registered or pointed anywhere.

    :param run_id: the run that the earlier result was tracked as.
    :param version: what a registration gives, whatever is registered.
    """

    def __init__(self, spec: StepSpec, run_id: str, version: ModelVersion | None) -> None:
        super().__init__(spec)
        self.run_id, self.version = run_id, version
        self.metrics: dict[str, float] = {}
        # Where the model was laid down, by a training.
        self.model: Path | None = None
        # There was no champion then, whatever there is by now.
        self.without_champion = False
        self._plain = Tracker(spec)

    @property
    def client(self) -> Any:
        """A client that reads, and does as if it wrote."""
        return _Reading(self._plain.client, self)

    @contextmanager
    def run(self, name: str) -> Iterator[TrackedRun]:
        """The earlier run, as if it were to be made."""
        yield TrackedRun(self.run_id, "0", False)

    def start_run(self, name: str) -> TrackedRun:
        """The earlier run, as if it were to be made."""
        return TrackedRun(self.run_id, "0", False)

    def log(
        self,
        run_id: str,
        *,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Keep the metrics, to compare them."""
        self.metrics |= {name: float(value) for name, value in (metrics or {}).items()}

    def log_dataset(self, run_id: str, context: str, **dataset: str) -> None:
        """Nothing is logged."""

    def download(self, uri: str, to: Path) -> Path:
        """Fetch artifacts to a local folder."""
        return self._plain.download(uri, to)

    def log_file(self, run_id: str, path: Path, folder: str = "") -> None:
        """Nothing is kept."""

    def log_folder(self, run_id: str, path: Path, folder: str) -> None:
        """Nothing is kept; a model is compared where it lies."""
        self.model = path

    def find(self, model: Model) -> Any:
        """The registry's entry of a model, as it was for the earlier result."""
        was_none = self.without_champion and model.version is None and model.alias == "champion"
        return None if was_none else super().find(model)


class _Reading:
    """MLflow's client with nothing but its reading methods; the others are done as far as their caller can see."""

    def __init__(self, client: Any, tracker: SilentTracker) -> None:
        self._client, self._tracker = client, tracker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name) if name.startswith(_READS) else lambda *_, **__: None

    def search_model_versions(self, *_: Any, **__: Any) -> list[Any]:
        """None: the training is asked whether it has registered its version, and is to go on."""
        return []

    def create_model_version(self, name: str, source: str, run_id: str, *, tags: Mapping[str, str]) -> Any:
        """The earlier version, with the tags that this one would have."""
        made = self._tracker.version
        number = str(made.version if made else 0)
        return SimpleNamespace(name=name, version=number, run_id=run_id, source=source, tags=dict(tags))
