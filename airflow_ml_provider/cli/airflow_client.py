"""Airflow's REST API v2 as our commands call it: patient with a server that restarts, plain about refusals."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_ml_provider.cli.airflow_answers import (
    Lost,
    Refused,
    Unreachable,
    base_url,
    certificate_problem,
    document_of,
    retry_after,
    unreachable,
)
from airflow_ml_provider.cli.airflow_auth import KEPT, Auth, Nobody
from airflow_ml_provider.contract.errors import ConfigError

if TYPE_CHECKING:
    import requests

# What a call means that is sent twice; a POST is repeated only if its caller can tell that it arrived.
REPEATABLE = frozenset({"GET", "HEAD", "PUT", "PATCH", "DELETE"})
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
LONGEST_PAUSE = 10.0
OPTIONAL_PATIENCE = 10.0


class AirflowClient:
    """A connection to one Airflow.

    :param url: where Airflow's UI is, with its path prefix if it has one.
    :param auth: who asks; nobody when left out, which only a local deployment accepts.
    :param verify: whether to check the server's certificate, or the path of a CA's.
    :param timeout: seconds that one answer may take.
    :param patience: seconds for which a call is repeated while Airflow restarts or is busy.
    :param say: takes a line when Airflow does not answer, and when it does again.
    :raises ConfigError: the URL is none.
    """

    def __init__(
        self,
        url: str,
        auth: Auth | None = None,
        *,
        verify: bool | str = True,
        timeout: float = 30.0,
        patience: float = 300.0,
        say: Callable[[str], None] | None = None,
    ) -> None:
        import requests

        self.url = base_url(url)
        self.auth = auth or Nobody()
        self.verify = verify
        self.timeout = timeout
        self.patience = patience
        self.say = say or (lambda line: None)
        self._session = requests.Session()
        self._token = ""

    def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: dict[str, Any] | None = None,
        repeatable: bool | None = None,
        patience: float | None = None,
    ) -> Any:
        """One call of the API; gives the answer's document, None where it is empty.

        :param path: below ``/api/v2``, quoted where needed (see :func:`path`).
        :param repeatable: whether the call may be sent again when it is unknown whether it arrived; all but POST
            when left out.
        :param patience: seconds, where they differ from the client's.
        :raises Refused: Airflow says no (4xx); a ConfigError with the status.
        :raises Unreachable: no answer within the patience; a TransientError.
        """
        again = method in REPEATABLE if repeatable is None else repeatable
        return self._patiently(
            again,
            f"{method} {path}",
            lambda: self._authorized(method, f"/api/v2{path}", json, params),
            self.patience if patience is None else patience,
        )

    def optional(self, path: str, *, params: dict[str, Any] | None = None) -> tuple[Any, str]:
        """Read what the caller can do without; gives the document, or None and why it could not be read.

        Airflow answers 500 for a log or an output that is broken; that is told from an outage, which is waited out.
        """
        for _ in range(2):
            try:
                return self.call(
                    "GET", path, params=params, patience=min(self.patience, OPTIONAL_PATIENCE)
                ), ""
            except Refused as refused:
                return None, refused.detail or refused.what
            except Unreachable as error:
                trouble = error.what
                self.call("GET", "/version")
        return None, trouble

    def trigger(
        self, dag_id: str, run_id: str, conf: dict[str, Any] | None = None, partition_key: str | None = None
    ) -> tuple[dict[str, Any], bool]:
        """Start a run of this id, or find it; gives the run and whether this call may have started it.

        The same id never starts a second run, so the call is repeated when its answer is lost.
        """
        body = {
            "dag_run_id": run_id,
            "logical_date": None,
            "conf": conf or {},
            "partition_key": partition_key,
        }
        try:
            return self.call("POST", path("dags", dag_id, "dagRuns"), json=body, repeatable=True), True
        except Refused as refused:
            found = self.run(dag_id, run_id) if refused.status == 409 else None
            if found is None:
                raise
            return found, False

    def run(self, dag_id: str, run_id: str) -> dict[str, Any] | None:
        """A DAG run, None where there is none of this id."""
        try:
            return self.call("GET", path("dags", dag_id, "dagRuns", run_id))  # type: ignore[no-any-return]
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    def pages(self, path: str, key: str, *, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """All items of a collection, page by page."""
        found: list[dict[str, Any]] = []
        while True:
            document = self.call("GET", path, params={"limit": 100, **(params or {}), "offset": len(found)})
            items = document[key]
            found += items
            total = document.get("total_entries")
            if not items or (total is not None and len(found) >= total):
                return found

    def link(self, *names: str) -> str:
        """The page of the UI about a DAG, or a run of it, or a task of that: dag id, run id, task id."""
        parts = zip(("dags", "runs", "tasks"), names, strict=False)
        return self.url + "".join(f"/{part}/{quote(name, safe='')}" for part, name in parts)

    def _patiently(
        self, again: bool, what: str, attempt: Callable[[], requests.Response], patience: float
    ) -> Any:
        began, tries, told = time.monotonic(), 0, False
        while True:
            pause, trouble = 0.0, ""
            try:
                answer = attempt()
                # 429 and 503 say that nothing was done.
                if answer.status_code not in BUSY or not (again or answer.status_code in (429, 503)):
                    document = document_of(answer, what, self.auth)
                    if told:
                        self.say("Airflow answers again")
                    return document
                trouble = f"answered {answer.status_code}"
                pause = retry_after(answer)
            except Lost as lost:
                trouble = str(lost)
                if not again and not lost.before_sending:
                    raise unreachable(self.url, what, trouble, time.monotonic() - began, sent=True) from None
            tries += 1
            pause = pause or min(LONGEST_PAUSE, 0.25 * 2 ** min(tries, 8)) * random.uniform(0.5, 1.0)
            if time.monotonic() - began + pause > patience:
                raise unreachable(self.url, what, trouble, time.monotonic() - began, sent=False) from None
            if tries == 3:
                self.say(f"Airflow {trouble}; trying again for up to {patience:.0f} s")
                told = True
            time.sleep(pause)

    def _authorized(self, method: str, path: str, json: Any, params: Any) -> requests.Response:
        for attempt in (1, 2):
            self._token = self._token or self.auth.token(self._ask)
            answer = self._send(method, path, json, params, self._token)
            if answer.status_code != 401 or not self.auth.renewable or attempt == 2:
                break
            self._token = ""
        return answer

    def _ask(self, method: str, path: str, body: dict[str, str] | None) -> Any:
        answer = self._send(method, path, body, None, "")
        if answer.status_code in BUSY:
            raise Lost(f"answered {answer.status_code} when asked for a token", before_sending=True)
        return document_of(answer, f"{method} {path}", self.auth)

    def _send(self, method: str, path: str, json: Any, params: Any, token: str) -> requests.Response:
        import requests

        def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
            # An auth of our own keeps requests from putting a .netrc's in its place.
            if token:
                request.headers["Authorization"] = f"Bearer {token}"
            return request

        try:
            # A redirect would turn a POST into a GET, so it is shown, not followed.
            return self._session.request(
                method,
                self.url + path,
                json=json,
                params=params,
                headers={"Accept": "application/json"},
                auth=authorize,
                verify=self.verify,
                timeout=(min(10.0, self.timeout), self.timeout),
                allow_redirects=False,
            )
        except requests.exceptions.SSLError as error:
            if not (problem := certificate_problem(error)):
                raise Lost("dropped the connection") from None
            raise ConfigError(
                f"{self.url}: the TLS connection cannot be trusted: {problem}",
                kept=KEPT,
                todo="give the CA's certificate with --ca FILE, and check the host's name and the URL's scheme",
            ) from None
        except requests.exceptions.ConnectTimeout:
            raise Lost("cannot be connected to in time", before_sending=True) from None
        except requests.exceptions.Timeout:
            raise Lost(f"did not answer within {self.timeout:.0f} s") from None
        except (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            if "NewConnectionError" in str(error) or "NameResolutionError" in str(error):
                raise Lost("refuses connections or is not found", before_sending=True) from None
            raise Lost("dropped the connection") from None
        except (requests.exceptions.RequestException, OSError) as error:
            raise ConfigError(
                f"{self.url} cannot be called: {error}", kept=KEPT, todo="check --url and --ca"
            ) from None


def path(*names: str) -> str:
    """A path from its parts, each quoted: a run id may hold ``/``, ``+`` and ``:``."""
    return "".join(f"/{quote(name, safe='')}" for name in names)
