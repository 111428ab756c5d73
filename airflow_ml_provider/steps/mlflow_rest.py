"""An MLflow server spoken to over its REST API, without MLflow's own package, whose import takes seconds.

https://mlflow.org/docs/latest/api_reference/rest-api.html; login, time limits and retries are those of
MLflow's client, from the same environment variables.
"""

from __future__ import annotations

import os
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import requests

_API = "/api/2.0/mlflow/"
_TRANSIENT = (408, 429, 500, 502, 503, 504)
# The ways to log in that are spoken here.
_LOGIN = "MLFLOW_TRACKING_"
_SPOKEN = {"URI", "USERNAME", "PASSWORD", "TOKEN", "INSECURE_TLS", "SERVER_CERT_PATH", "CLIENT_CERT_PATH"}
_CREDENTIALS_FILE = "~/.mlflow/credentials"
_CODES = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED"}


class RestError(Exception):
    """The server's answer is an error.

    :param error_code: MLflow's name for it: ``RESOURCE_DOES_NOT_EXIST``.
    """

    def __init__(self, error_code: str, message: str) -> None:
        super().__init__(message)
        self.error_code, self.message = error_code, message


def is_spoken(uri: str) -> bool:
    """Whether a server can be spoken to this way, by its address and by what the environment asks for.

    Otherwise MLflow's own client is to be used: for databases, folders and Databricks as tracking servers, for
    workspaces, request signing and plugins that log in.
    """
    login = {name.removeprefix(_LOGIN) for name in os.environ if name.startswith(_LOGIN)}
    return (
        urlsplit(uri).scheme in ("http", "https")
        and login <= _SPOKEN
        and not os.environ.get("MLFLOW_WORKSPACE")
        and not Path(_CREDENTIALS_FILE).expanduser().exists()
        and not entry_points(group="mlflow.request_header_provider")
    )


class Server:
    """A tracking server; safe to use from many threads.

    :param uri: its address, with ``http://`` or ``https://``.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")

    @cached_property
    def _session(self) -> requests.Session:
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry

        known = os.environ.get
        session = requests.Session()
        session.headers["User-Agent"] = "airflow-ml-provider"
        user, password = known("MLFLOW_TRACKING_USERNAME"), known("MLFLOW_TRACKING_PASSWORD")
        if user and password:
            session.auth = (user, password)
        elif token := known("MLFLOW_TRACKING_TOKEN"):
            session.auth = _Bearer(token)
        insecure = known("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1")
        session.verify = known("MLFLOW_TRACKING_SERVER_CERT_PATH") or not insecure
        session.cert = known("MLFLOW_TRACKING_CLIENT_CERT_PATH")
        times = int(known("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7"))
        retry = Retry(
            total=times, connect=times, read=times, redirect=times, status=times, allowed_methods=None,
            status_forcelist=_TRANSIENT, raise_on_status=False,
            backoff_factor=float(known("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "2")),
            backoff_jitter=float(known("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "1.0")),
        )  # fmt: skip
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry, pool_maxsize=32))
        return session

    def request(self, method: str, path: str, **more: Any) -> requests.Response:
        """A request to a path below the server's address, retried.

        :raises RestError: the answer is an error.
        :raises requests.RequestException: there was no answer.
        """
        timeout = float(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", "120"))
        answer = self._session.request(method, self.uri + path, timeout=timeout, **more)
        if answer.status_code >= 300:
            raise _error(answer, path)
        return answer

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """Ask."""
        return _document(self.request("GET", _API + path, params=query), path)

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        """Have something done."""
        return _document(self.request("POST", _API + path, json=body), path)


class _Bearer:
    """Authorizes with a token."""

    def __init__(self, token: str) -> None:
        self._header = f"Bearer {token}"

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._header
        return request


def _document(answer: requests.Response, path: str) -> dict[str, Any]:
    try:
        document = answer.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise RestError("INTERNAL_ERROR", f"the answer to {path} is not MLflow's: {answer.text[:300]}")
    return document


def _error(answer: requests.Response, path: str) -> RestError:
    try:
        document = answer.json()
    except ValueError:
        document = {}
    if isinstance(document, dict) and document.get("error_code"):
        code = str(document["error_code"])
        return RestError(code, f"{code}: {document.get('message') or document}")
    # Not by MLflow itself but by a proxy, say, whose "not found" tells nothing of the thing asked for.
    return RestError(
        _CODES.get(answer.status_code, "INTERNAL_ERROR"),
        f"HTTP {answer.status_code} in answer to {path}: {answer.text[:300]}",
    )
