"""MLflow as the control plane sees it: its address, a step's credentials, the version an alias names."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from airflow_ml_provider import config
from airflow_ml_provider.contract.documents import ModelVersion
from airflow_ml_provider.contract.errors import ConfigError, DataError, TransientError
from airflow_ml_provider.contract.models import Model

if TYPE_CHECKING:
    import requests
    from airflow.sdk import Connection

_API = "/api/2.0/mlflow/"
_TIMEOUT = (5, 30)


class MlflowHook(BaseHook):
    """A connection of type ``mlflow``: host, port, login and password or a token; spoken to over REST.

    MLflow's own package is never imported here: it takes seconds, and this runs in triggers and workers.

    :param mlflow_conn_id: the connection; the one named by ``[ml] mlflow_conn_id`` by default.
    """

    conn_name_attr = "mlflow_conn_id"
    default_conn_name = config.DEFAULT_CONNECTION
    conn_type = "mlflow"
    hook_name = "MLflow"

    def __init__(self, mlflow_conn_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mlflow_conn_id = mlflow_conn_id or config.mlflow_connection()

    @classmethod
    async def connected(cls, mlflow_conn_id: str | None = None) -> MlflowHook:
        """A hook whose connection is fetched without blocking, for triggers.

        :raises ConfigError: the connection does not exist.
        """
        hook = cls(mlflow_conn_id)
        try:
            hook.__dict__["connection"] = await cls.aget_connection(hook.mlflow_conn_id)
        except AirflowNotFoundException as error:
            raise hook._no_connection() from error
        return hook

    @cached_property
    def connection(self) -> Connection:
        """The Airflow connection.

        :raises ConfigError: it does not exist.
        """
        try:
            return self.get_connection(self.mlflow_conn_id)
        except AirflowNotFoundException as error:
            raise self._no_connection() from error

    @cached_property
    def tracking_uri(self) -> str:
        """The server's address, without credentials.

        :raises ConfigError: the connection has none, or has credentials in its host.
        """
        connection = self.connection
        host = (connection.host or "").strip().rstrip("/")
        if not host:
            raise ConfigError(
                f"the connection {self.mlflow_conn_id!r} has no host",
                todo="give it the address of the tracking server, such as https://mlflow.example.com",
            )
        if "://" not in host:
            host = f"{connection.schema or 'http'}://{host}"
        parts = urlsplit(host)
        if parts.username or parts.password:
            raise ConfigError(
                f"the host of the connection {self.mlflow_conn_id!r} has credentials in it",
                todo="put them into its login and password fields, where they are kept secret",
            )
        if connection.port and not parts.port:
            parts = parts._replace(netloc=f"{parts.netloc}:{connection.port}")
        return parts.geturl()

    def environment(self) -> dict[str, str]:
        """The variables by which MLflow's client in a step logs in; never to be shown or stored."""
        connection = self.connection
        found = {
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            "MLFLOW_TRACKING_USERNAME": connection.login,
            "MLFLOW_TRACKING_PASSWORD": connection.password if connection.login else None,
            "MLFLOW_TRACKING_TOKEN": self._token,
            "MLFLOW_TRACKING_INSECURE_TLS": None if self._verify_tls else "true",
        }
        return {name: str(value) for name, value in found.items() if value}

    def resolve(self, model: Model) -> ModelVersion:
        """The version that a model names now, by its alias or number.

        :raises DataError: there is no such model, alias or version.
        :raises TransientError: MLflow did not answer.
        """
        found = self.find(model)
        if found is None:
            named = f"version {model.version}" if model.version is not None else f"alias {model.alias!r}"
            raise DataError(
                f"MLflow at {self.tracking_uri} has no {named} of the model {model.name!r}",
                todo="train the model, and promote it for the alias champion, or name one that exists",
            )
        return found

    def find(self, model: Model) -> ModelVersion | None:
        """:meth:`resolve`, None where MLflow answers that there is none (not where it does not answer)."""
        if model.version is not None:
            found = self._get("model-versions/get", name=model.name, version=str(model.version))
        else:
            found = self._get("registered-models/alias", name=model.name, alias=model.alias)
        if found is None:
            return None
        version = found["model_version"]
        alias = model.alias if model.version is None else ""
        return ModelVersion(model.name, int(version["version"]), version.get("run_id") or "", alias)

    def point(self, model: str, alias: str, version: int) -> None:
        """Let an alias name a version; doing it again changes nothing."""
        self._post("registered-models/alias", name=model, alias=alias, version=str(version))

    def tag_run(self, run_id: str, name: str, value: str) -> None:
        """Set a tag of a run."""
        self._post("runs/set-tag", run_id=run_id, key=name, value=value)

    def test_connection(self) -> tuple[bool, str]:
        """Whether MLflow answers and lets us in; for the button in Airflow's form."""
        try:
            self._get("experiments/search", max_results="1")
        except (ConfigError, TransientError) as error:
            return False, error.what
        return True, f"MLflow at {self.tracking_uri} answers"

    @property
    def _token(self) -> str | None:
        """A bearer token: the field of that name, or a password without a login."""
        token = self.connection.extra_dejson.get("token")
        return token or (None if self.connection.login else self.connection.password)

    @property
    def _verify_tls(self) -> bool:
        return str(self.connection.extra_dejson.get("verify_tls", True)).lower() not in ("false", "0", "no")

    def _no_connection(self) -> ConfigError:
        return ConfigError(
            f"there is no Airflow connection {self.mlflow_conn_id!r}",
            todo="add it (type MLflow), or name another one in [ml] mlflow_conn_id",
        )

    def _get(self, path: str, **query: str) -> dict[str, Any] | None:
        """The answer to a request as JSON; None for "does not exist"."""
        return self._ask("GET", path, params=query)

    def _post(self, path: str, **document: str) -> None:
        """Have something changed.

        :raises DataError: what is to be changed does not exist.
        """
        if self._ask("POST", path, json=document) is None:
            raise DataError(f"MLflow at {self.tracking_uri} has no {', '.join(document.values())}")

    def _ask(self, method: str, path: str, **given: Any) -> dict[str, Any] | None:
        import requests

        try:
            answer = requests.request(
                method,
                self.tracking_uri + _API + path,
                **given,
                auth=self._authorize,
                timeout=_TIMEOUT,
                verify=self._verify_tls,
            )
        except requests.RequestException as error:
            raise TransientError(
                f"MLflow at {self.tracking_uri} is not reachable: {type(error).__name__}",
                todo=f"check that it runs, and its address in the connection {self.mlflow_conn_id!r}",
            ) from error
        if answer.status_code in (400, 404) and _says_absent(answer):
            return None
        if answer.status_code in (401, 403):
            raise ConfigError(
                f"MLflow at {self.tracking_uri} refused the connection {self.mlflow_conn_id!r} "
                f"(HTTP {answer.status_code})",
                todo="check its login and password, or its token, and their rights",
            )
        if answer.status_code in (408, 429) or answer.status_code >= 500:
            raise TransientError(
                f"MLflow at {self.tracking_uri} answered HTTP {answer.status_code} to {path}"
            )
        if answer.status_code != 200:
            raise ConfigError(
                f"{self.tracking_uri} does not answer like MLflow (HTTP {answer.status_code} to {path})",
                todo=f"check the address in the connection {self.mlflow_conn_id!r}",
            )
        try:
            document: dict[str, Any] = answer.json()
        except requests.JSONDecodeError as error:
            raise ConfigError(
                f"{self.tracking_uri} does not answer like MLflow (no JSON from {path})",
                todo=f"check the address in the connection {self.mlflow_conn_id!r}",
            ) from error
        return document

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # Set by hand, also to nothing: requests would otherwise send what it finds in a ~/.netrc.
        from requests.auth import HTTPBasicAuth

        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        elif self.connection.login:
            HTTPBasicAuth(self.connection.login, self.connection.password or "")(request)
        return request


def _says_absent(answer: requests.Response) -> bool:
    """Whether MLflow itself says that the thing does not exist; a proxy's 404 does not say so."""
    try:
        document = answer.json()
    except ValueError:
        return False
    code, message = document.get("error_code"), str(document.get("message", ""))
    # The second is how it says that the model exists and has no such alias.
    return code == "RESOURCE_DOES_NOT_EXIST" or (code == "INVALID_PARAMETER_VALUE" and "not found" in message)


def find_hook() -> MlflowHook | None:
    """The deployment's hook; None where its connection does not exist, which most steps can do without."""
    hook = MlflowHook()
    try:
        hook.connection  # noqa: B018 - looked up now, so that a missing one is known here
    except ConfigError as error:
        if isinstance(error.__cause__, AirflowNotFoundException):
            return None
        raise
    return hook
