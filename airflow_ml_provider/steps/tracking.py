"""MLflow, as the steps use it: one run per step key, found again by its tag, so a retry never makes a second.

The server's address is in the spec or in ``MLFLOW_TRACKING_URI``; its credentials are only ever in the
environment (``MLFLOW_TRACKING_USERNAME``, ``..._PASSWORD``, ``..._TOKEN``), where MLflow itself reads them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.contract.documents import ModelVersion, StepSpec
from airflow_ml_provider.contract.errors import ConfigError, DataError, MLError, TransientError
from airflow_ml_provider.contract.models import Model
from airflow_ml_provider.steps.mlflow_client import Metric, Pair, RestClient, own_client
from airflow_ml_provider.steps.mlflow_rest import RestError, is_spoken

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as RegistryVersion
    from mlflow.exceptions import RestException

# Tags are the project's own, under one prefix, so that nobody else's search is disturbed.
TAG = "airflow_ml."
_MOST_PARAM = 6_000
# What MLflow's servers take in one request.
_MOST_POINTS = 1_000


@dataclass(frozen=True)
class TrackedRun:
    """An MLflow run of a step."""

    run_id: str
    experiment_id: str
    finished: bool


class Tracker:
    """The step's view of the tracking server."""

    def __init__(self, spec: StepSpec) -> None:
        self.spec = spec
        self.uri = spec.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        if not self.uri:
            raise ConfigError(
                f"the {spec.verb} step needs MLflow and no tracking server is configured",
                todo="set up the Airflow connection named by [ml] mlflow_conn_id (type mlflow), or "
                "MLFLOW_TRACKING_URI when the step is run by hand",
            )

    @cached_property
    def client(self) -> Any:
        """MLflow's client, or a lighter one with the methods that steps use.

        Told not to retry for minutes on a server that is not there.
        """
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # Neither bars nor banners in a task's log; the links are in the step's result.
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        return RestClient(self.uri) if is_spoken(self.uri) else own_client(self.uri)

    @contextmanager
    def speaking(self, doing: str) -> Iterator[None]:
        """Names what was attempted when MLflow fails, and whether a retry helps."""
        import requests

        try:
            yield
        except refusals() as error:
            said = getattr(error, "message", str(error))
            if error.error_code in (
                "RESOURCE_DOES_NOT_EXIST",
                "INVALID_PARAMETER_VALUE",
                "RESOURCE_ALREADY_EXISTS",
            ):
                raise DataError(f"MLflow at {self.uri} could not {doing}: {said}") from error
            if error.error_code in ("PERMISSION_DENIED", "UNAUTHENTICATED"):
                raise ConfigError(
                    f"MLflow at {self.uri} refused to {doing}: {said}",
                    todo="check the login of the mlflow connection and its rights",
                ) from error
            raise TransientError(f"MLflow at {self.uri} could not {doing}: {said}") from error
        except _failures() as error:
            said = str(error).strip().splitlines()[0]
            if "API request to" in said or isinstance(error, requests.RequestException):
                raise TransientError(
                    f"MLflow at {self.uri} is not reachable (to {doing}): {said[:300]}",
                    todo="check that the server runs and that the mlflow connection has its address",
                ) from error
            raise MLError(f"MLflow at {self.uri} could not {doing}: {said[:600]}") from error

    def start_run(self, name: str) -> TrackedRun:
        """The run of this step: found by step key and fingerprint when a try before this one made it."""
        tags = self._tags()
        with self.speaking(f"open the experiment {self.spec.tracking.experiment!r}"):
            experiment_id = self._experiment_id()
        wanted = " and ".join(
            f"tags.`{TAG}{tag}` = '{tags[TAG + tag]}'" for tag in ("step_key", "fingerprint", "verb")
        )
        with self.speaking("look for the run of an earlier try"):
            earlier = self.client.search_runs([experiment_id], wanted, max_results=1)
        if earlier:
            run = earlier[0]
            finished = run.info.status == "FINISHED"
            if not finished:
                with self.speaking("resume the run of an earlier try"):
                    self.client.update_run(run.info.run_id, status="RUNNING")
            return TrackedRun(run.info.run_id, experiment_id, finished)
        with self.speaking("create a run"):
            run = self.client.create_run(experiment_id, run_name=name, tags=tags)
        return TrackedRun(run.info.run_id, experiment_id, False)

    @contextmanager
    def run(self, name: str) -> Iterator[TrackedRun]:
        """The step's run, marked finished at the end or failed when the body raises."""
        run = self.start_run(name)
        try:
            yield run
        except BaseException:
            self._end(run.run_id, "FAILED")
            raise
        with self.speaking("finish the run"):
            self.client.set_terminated(run.run_id, "FINISHED")

    def log(
        self,
        run_id: str,
        *,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log a batch of each; logging the same again (a retry) is no error."""
        metric, param, tag = _kinds(self.client)
        now = int(time.time() * 1000)
        with self.speaking("log parameters, metrics and tags"):
            self.client.log_batch(
                run_id,
                metrics=[metric(key, float(value), now, 0) for key, value in (metrics or {}).items()],
                params=[param(key, str(value)[:_MOST_PARAM]) for key, value in (params or {}).items()],
                tags=[tag(key, str(value)[:_MOST_PARAM]) for key, value in (tags or {}).items()],
            )

    def log_dataset(self, run_id: str, context: str, **dataset: str) -> None:
        """Log a dataset that the run used, for ``context``; the fields of MLflow's ``Dataset``."""
        with self.speaking("log the dataset"):
            if isinstance(self.client, RestClient):
                self.client.log_dataset(run_id, dataset, context)
                return
            from mlflow.entities import Dataset, DatasetInput, InputTag

            tag = InputTag("mlflow.data.context", context)
            self.client.log_inputs(run_id, [DatasetInput(Dataset(**dataset), [tag])])

    def log_points(self, run_id: str, points: Iterable[tuple[str, float, int, int]]) -> None:
        """Log points of metrics' histories: name, value, milliseconds since 1970, step; a few requests in all.

        The same points logged again are the same points.
        """
        metric, _, _ = _kinds(self.client)
        rest = [metric(*point) for point in points]
        with self.speaking("log the histories of metrics"):
            for place in range(0, len(rest), _MOST_POINTS):
                self.client.log_batch(run_id, metrics=rest[place : place + _MOST_POINTS])

    def log_file(self, run_id: str, path: Path, folder: str = "") -> None:
        """Keep a file with the run."""
        with self.speaking(f"keep {path.name}"):
            self.client.log_artifact(run_id, str(path), folder or None)

    def log_folder(self, run_id: str, path: Path, folder: str) -> None:
        """Keep a folder with the run."""
        with self.speaking(f"keep the folder {path.name}"):
            self.client.log_artifacts(run_id, str(path), folder)

    def resolve(self, model: Model) -> RegistryVersion:
        """The registry's entry of a model, by version or alias.

        :raises DataError: the model, the version or the alias does not exist.
        """
        with self.speaking(f"find model {model}"):
            found: RegistryVersion
            if model.version is not None:
                found = self.client.get_model_version(model.name, str(model.version))
            else:
                found = self.client.get_model_version_by_alias(model.name, model.alias)
            return found

    def find(self, model: Model) -> RegistryVersion | None:
        """:meth:`resolve`, None when MLflow answers that there is none (not when it does not answer)."""
        try:
            return self.resolve(model)
        except DataError as error:
            if isinstance(error.__cause__, refusals()):
                return None
            raise

    def download(self, uri: str, to: Path) -> Path:
        """Fetch artifacts (``runs:/...`` or ``models:/...``) to a local folder; gives their path there."""
        to.mkdir(parents=True, exist_ok=True)
        with self.speaking(f"fetch {uri}"):
            if isinstance(self.client, RestClient):
                return self.client.download(uri, to)
            import mlflow.artifacts

            return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(to)))

    def run_url(self, run: TrackedRun, artifact: str = "") -> str:
        """The page of a run in the MLflow UI, or of one of its artifacts."""
        base = (self.spec.tracking.browse or self.uri).rstrip("/")
        page = f"{base}/#/experiments/{run.experiment_id}/runs/{run.run_id}"
        return f"{page}/artifacts/{artifact}" if artifact else page

    def model_url(self, model: ModelVersion) -> str:
        """The page of a model version in the MLflow UI."""
        base = (self.spec.tracking.browse or self.uri).rstrip("/")
        return f"{base}/#/models/{model.name}/versions/{model.version}"

    def _experiment_id(self) -> str:
        name = self.spec.tracking.experiment
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return str(self.client.create_experiment(name))
            except _failures():
                # Another step created it between the two calls.
                experiment = self.client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        if experiment.lifecycle_stage != "active":
            raise ConfigError(
                f"the MLflow experiment {name!r} is deleted",
                todo="restore it, or set another name in [ml] experiment",
            )
        return str(experiment.experiment_id)

    def _tags(self) -> dict[str, str]:
        spec = self.spec
        tags = {
            "verb": spec.verb,
            "step_key": spec.step_key,
            "fingerprint": spec.fingerprint,
            "dag_id": spec.run.dag_id,
            "task_id": spec.run.task_id,
            "dag_run_id": spec.run.run_id,
            "partition_key": spec.run.partition_key or "",
            "triggered_by": spec.run.triggered_by,
            "reason": spec.run.reason,
            "cache": spec.run.cache,
            "airflow_url": spec.run.url or "",
            "code_digest": spec.code.digest,
            "code_commit": spec.code.commit,
        }
        named = {TAG + key: value for key, value in tags.items() if value}
        if spec.run.url:
            # MLflow shows this as the run's description: the way back to Airflow.
            named["mlflow.note.content"] = f"[{spec.run.dag_id}, task {spec.run.task_id}]({spec.run.url})"
        if spec.code.commit:
            named["mlflow.source.git.commit"] = spec.code.commit
        return named

    def _end(self, run_id: str, status: str) -> None:
        try:
            self.client.set_terminated(run_id, status)
        except Exception as error:
            # The step's own error is the one to report; the run is found by its tag on the next try.
            from airflow_ml_provider.steps.context import log

            log.warning("could not mark MLflow run %s as %s: %s", run_id, status, error)


def refusals() -> tuple[type[RestError | RestException], ...]:
    """The exceptions that say that MLflow answered with an error; they have an ``error_code``."""
    if "mlflow.exceptions" not in sys.modules:
        return (RestError,)
    from mlflow.exceptions import RestException

    return (RestError, RestException)


def _failures() -> tuple[type[Exception], ...]:
    """All that speaking to MLflow raises; its own package may not have been imported."""
    import requests

    if "mlflow.exceptions" not in sys.modules:
        return (RestError, requests.RequestException)
    from mlflow.exceptions import MlflowException

    return (RestError, requests.RequestException, MlflowException)


def _kinds(client: Any) -> tuple[Any, Any, Any]:
    """The types of metrics, parameters and tags that a client takes."""
    if isinstance(client, RestClient):
        return Metric, Pair, Pair
    from mlflow.entities import Metric as MlflowMetric
    from mlflow.entities import Param, RunTag

    return MlflowMetric, Param, RunTag
