"""What steps ask of MLflow, without its own client: see :mod:`airflow_ml_provider.steps.mlflow_rest`.

Each method is that of ``MlflowClient`` of the same name, with as much of it as steps use; what they give has
the attributes of MLflow's entities. Anything else that is asked for, and large files, are left to MLflow's
own client, which is imported then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from airflow_ml_provider.steps.mlflow_files import Files, is_large
from airflow_ml_provider.steps.mlflow_rest import RestError, Server

# What a server takes in one request.
_MOST_METRICS, _MOST_PARAMS_OR_TAGS, _MOST_TOGETHER = 1_000, 100, 1_000


@dataclass(frozen=True)
class Metric:
    """A value of a metric at a moment (milliseconds since 1970)."""

    key: str
    value: float
    timestamp: int
    step: int = 0


@dataclass(frozen=True)
class Pair:
    """A parameter or a tag."""

    key: str
    value: str


class Page(list[Any]):
    """Results, and the token of the next page, empty after the last."""

    token: str = ""


class RestClient:
    """A client of a tracking server and its registry; safe to use from many threads.

    :param uri: the server's address, with ``http://`` or ``https://``.
    """

    def __init__(self, uri: str) -> None:
        self._server = Server(uri)
        self._addresses: dict[str, str] = {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.mlflow_client, name)

    @cached_property
    def mlflow_client(self) -> Any:
        """MLflow's own client, for what this one does not do."""
        return own_client(self._server.uri)

    # Experiments and runs

    def get_experiment_by_name(self, name: str) -> Any:
        """The experiment of a name, None if there is none."""
        try:
            found = self._server.get("experiments/get-by-name", experiment_name=name)
        except RestError as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return SimpleNamespace(**found["experiment"])

    def create_experiment(self, name: str) -> str:
        """Create an experiment; gives its id."""
        return str(self._server.post("experiments/create", name=name)["experiment_id"])

    def search_runs(
        self, experiment_ids: Sequence[str], filter_string: str = "", *, max_results: int = 1_000,
        page_token: str | None = None,
    ) -> Page:  # fmt: skip
        """Active runs."""
        more = {"page_token": page_token} if page_token else {}
        found = self._server.post(
            "runs/search", experiment_ids=list(experiment_ids), filter=filter_string,
            run_view_type="ACTIVE_ONLY", max_results=max_results, **more,
        )  # fmt: skip
        page = Page(_run(run) for run in found.get("runs", ()))
        page.token = found.get("next_page_token", "")
        return page

    def create_run(
        self, experiment_id: str, *, run_name: str | None = None, tags: Mapping[str, str] | None = None
    ) -> Any:
        """Begin a run."""
        tags = dict(tags or {})
        named = {"run_name": run_name} if run_name else {}
        made = self._server.post(
            "runs/create", experiment_id=str(experiment_id), user_id=tags.get("mlflow.user", "unknown"),
            start_time=_now(), tags=_pairs(tags), **named,
        )  # fmt: skip
        return _run(made["run"])

    def get_run(self, run_id: str) -> Any:
        """A run with its last metrics, its parameters and tags."""
        return _run(self._server.get("runs/get", run_id=run_id)["run"])

    def update_run(self, run_id: str, *, status: str) -> None:
        """Set the status of a run that goes on."""
        self._server.post("runs/update", run_id=run_id, status=status)

    def set_terminated(self, run_id: str, status: str = "FINISHED") -> None:
        """End a run."""
        self._server.post("runs/update", run_id=run_id, status=status, end_time=_now())

    def log_batch(
        self, run_id: str, metrics: Iterable[Any] = (), params: Iterable[Any] = (), tags: Iterable[Any] = ()
    ) -> None:
        """Log any number of each, in as many requests as that takes."""
        rest = {
            "metrics": [
                {
                    "key": each.key,
                    "value": _number(each.value),
                    "timestamp": each.timestamp,
                    "step": each.step,
                }
                for each in metrics
            ],
            "params": [{"key": each.key, "value": each.value} for each in params],
            "tags": [{"key": each.key, "value": each.value} for each in tags],
        }
        while any(rest.values()):
            room, batch = _MOST_TOGETHER, {}
            most = {"params": _MOST_PARAMS_OR_TAGS, "tags": _MOST_PARAMS_OR_TAGS, "metrics": _MOST_METRICS}
            for kind, many in most.items():
                size = min(many, room)
                batch[kind], rest[kind] = rest[kind][:size], rest[kind][size:]
                room -= len(batch[kind])
            self._server.post("runs/log-batch", run_id=run_id, **batch)

    def log_dataset(self, run_id: str, dataset: Mapping[str, str], context: str) -> None:
        """Name a dataset that a run used: name, digest, source_type, source, schema and profile."""
        given = {"tags": _pairs({"mlflow.data.context": context}), "dataset": dict(dataset)}
        self._server.post("runs/log-inputs", run_id=run_id, datasets=[given])

    # The registry

    def get_model_version(self, name: str, version: str) -> Any:
        """A version by its number."""
        return _version(self._server.get("model-versions/get", name=name, version=version)["model_version"])

    def get_model_version_by_alias(self, name: str, alias: str) -> Any:
        """The version that an alias names."""
        return _version(self._server.get("registered-models/alias", name=name, alias=alias)["model_version"])

    def search_model_versions(self, filter_string: str) -> Page:
        """Versions of models."""
        found = self._server.get("model-versions/search", filter=filter_string, max_results=10_000)
        page = Page(_version(each) for each in found.get("model_versions", ()))
        page.token = found.get("next_page_token", "")
        return page

    def create_registered_model(self, name: str) -> None:
        """Make room for versions under a name."""
        self._server.post("registered-models/create", name=name)

    def create_model_version(
        self, name: str, source: str, run_id: str, *, tags: Mapping[str, str] | None = None
    ) -> Any:
        """Register a version."""
        made = self._server.post(
            "model-versions/create", name=name, source=source, run_id=run_id, tags=_pairs(tags)
        )
        return _version(made["model_version"])

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        """Let an alias name a version."""
        self._server.post("registered-models/alias", name=name, alias=alias, version=str(version))

    def set_model_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        """Tag a version."""
        self._server.post("model-versions/set-tag", name=name, version=str(version), key=key, value=value)

    # Files

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None = None) -> None:
        """Keep a file with a run."""
        file, files = Path(local_path), self._files(self._address(run_id))
        if files is None or not file.is_file() or is_large([file.stat().st_size]):
            self.mlflow_client.log_artifact(run_id, local_path, artifact_path)
        else:
            files.put(file, artifact_path or "")

    def log_artifacts(self, run_id: str, local_dir: str, artifact_path: str | None = None) -> None:
        """Keep a folder with a run."""
        files, top = self._files(self._address(run_id)), Path(local_dir)
        found = sorted(path for path in top.rglob("*") if path.is_file())
        if files is None or is_large(path.stat().st_size for path in found):
            self.mlflow_client.log_artifacts(run_id, local_dir, artifact_path)
            return
        for path in found:
            below = path.parent.relative_to(top).as_posix()
            files.put(path, "/".join(part for part in (artifact_path, below) if part not in (None, "", ".")))

    def list_artifacts(self, run_id: str, path: str | None = None) -> list[Any]:
        """What is directly in a folder of a run."""
        files = self._files(self._address(run_id))
        if files is None:
            return list(self.mlflow_client.list_artifacts(run_id, path))
        return [
            SimpleNamespace(path=name, is_dir=size is None, file_size=size)
            for name, size in files.sizes(path or "").items()
        ]

    def download(self, uri: str, to: Path) -> Path:
        """Fetch a file or a folder (``runs:/...`` or the address of artifacts); gives its path in ``to``."""
        address = uri
        if uri.startswith("runs:/"):
            run_id, _, below = uri.removeprefix("runs:/").partition("/")
            address = f"{self._address(run_id)}/{below}"
        root, _, name = address.rpartition("/")
        files = self._files(root)
        if files is not None:
            found = dict(files.walk(name))
            if not is_large(found.values()):
                for path in found or [name]:
                    files.get(path, to / path)
                return to / name
        import mlflow.artifacts

        self.mlflow_client  # noqa: B018 - sets the tracking URI that MLflow's module functions use
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(to)))

    def _address(self, run_id: str) -> str:
        if run_id not in self._addresses:
            self._addresses[run_id] = str(self.get_run(run_id).info.artifact_uri)
        return self._addresses[run_id]

    def _files(self, address: str) -> Files | None:
        return Files(self._server, address) if Files.are_at(address) else None


def own_client(uri: str) -> Any:
    """MLflow's own client of a server; also makes it the one that MLflow's module functions speak to."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return mlflow.MlflowClient(uri, uri)


def _run(document: Mapping[str, Any]) -> Any:
    data = document.get("data", {})
    return SimpleNamespace(
        info=SimpleNamespace(**document["info"]),
        data=SimpleNamespace(
            metrics={each["key"]: float(each["value"]) for each in data.get("metrics", ())},
            params=_mapping(data.get("params")),
            tags=_mapping(data.get("tags")),
        ),
    )


def _version(document: Mapping[str, Any]) -> Any:
    empty: dict[str, Any] = {"run_id": None, "source": None, "aliases": []}
    return SimpleNamespace(**{**empty, **document, "tags": _mapping(document.get("tags"))})


def _mapping(pairs: Iterable[Mapping[str, str]] | None) -> dict[str, str]:
    return {each["key"]: each.get("value", "") for each in pairs or ()}


def _pairs(values: Mapping[str, str] | None) -> list[dict[str, str]]:
    return [{"key": key, "value": str(value)} for key, value in (values or {}).items()]


def _number(value: float) -> float | str:
    """As the JSON of protocol buffers has it, in which some numbers are text."""
    number = float(value)
    if math.isnan(number):
        return "NaN"
    return number if math.isfinite(number) else ("Infinity" if number > 0 else "-Infinity")


def _now() -> int:
    return int(time.time() * 1000)
