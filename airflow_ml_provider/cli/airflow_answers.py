"""What an answer of Airflow's API means: a document, a refusal in plain words, or nothing that helps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_ml_provider.cli.airflow_auth import HOW_TO_LOG_IN, KEPT, Auth, Nobody, Token
from airflow_ml_provider.contract.errors import ConfigError, TransientError

if TYPE_CHECKING:
    import requests


class Refused(ConfigError):
    """Airflow understood a call and says no; ``status`` is the HTTP status and ``detail`` Airflow's words."""

    def __init__(self, what: str, *, status: int, detail: str = "", todo: str = "") -> None:
        super().__init__(what, kept=KEPT, retry="the same call would be refused the same way", todo=todo)
        self.status = status
        self.detail = detail


class Unreachable(TransientError):
    """Airflow did not answer within the patience, or answered only that it is busy."""


class Lost(Exception):
    """A call without an answer; ``before_sending`` says that Airflow cannot have seen it. Never leaves the client."""

    def __init__(self, what: str, *, before_sending: bool = False) -> None:
        super().__init__(what)
        self.before_sending = before_sending


def document_of(answer: requests.Response, what: str, auth: Auth) -> Any:
    """The document of a good answer, None where it is empty.

    :param what: the call, for messages.
    :raises Refused: the answer is no good one, or none of Airflow's API.
    """
    if answer.status_code >= 300:
        raise _refusal(answer, what, auth)
    if not answer.content:
        return None
    try:
        return answer.json()
    except ValueError:
        kind = answer.headers.get("Content-Type", "something")
        raise Refused(
            f"{_host(answer)} answered {what} with {kind}, not with JSON",
            status=answer.status_code,
            todo="check that the URL is that of Airflow 3, with its path prefix, and not of a login page",
        ) from None


def unreachable(url: str, what: str, trouble: str, seconds: float, *, sent: bool) -> Unreachable:
    """The end of patience.

    :param sent: whether a call that must not be repeated may have arrived.
    """
    return Unreachable(
        f"Airflow at {url} {trouble}; gave up {what} after {seconds:.0f} s",
        kept="unknown whether the call arrived" if sent else "whatever runs in Airflow goes on",
        retry="look first whether it arrived" if sent else "the call is safe to repeat once Airflow answers",
        todo="check the URL, the network and whether Airflow's API server runs",
    )


def base_url(url: str) -> str:
    """The URL of Airflow without what people paste along with it.

    :raises ConfigError: it is none, or holds credentials.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.username or parts.password:
        raise ConfigError("the URL holds credentials, which logs would show", kept=KEPT, todo=HOW_TO_LOG_IN)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"{url!r} is not a URL", kept=KEPT, todo="give Airflow's address, as https://host/prefix"
        )
    return parts._replace(query="", fragment="").geturl().rstrip("/").removesuffix("/api/v2")


def certificate_problem(error: Exception) -> str:
    """Why TLS distrusts the server; empty where the connection was merely dropped."""
    text = str(error)
    if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text:
        return "it does not speak TLS"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return text.rsplit("certificate verify failed: ", 1)[-1].split(" (_ssl")[0].strip("')\" ")
    return ""


def retry_after(answer: requests.Response) -> float:
    """``Retry-After`` in seconds, a minute at most; its other form, a date, is left to our own pause."""
    text = answer.headers.get("Retry-After", "")
    return min(60.0, float(text)) if text.isdigit() else 0.0


def _refusal(answer: requests.Response, what: str, auth: Auth) -> Refused:
    status = answer.status_code
    detail = _detail(answer)
    if 300 <= status < 400:
        todo = f"give the address it points to: {answer.headers.get('Location', '').split('?')[0]}"
    elif status == 401 and isinstance(auth, Token):
        todo = "the token has expired or is wrong: make a new one"
    elif status in (401, 403, 405) and isinstance(auth, Nobody):
        todo = f"{HOW_TO_LOG_IN}; and check that the URL has Airflow's path prefix"
    elif status == 401:
        todo = "check user and password, or the token command"
    elif status == 403:
        todo = "give this user the right to do that in Airflow"
    elif status in (404, 405):
        todo = "check the DAG's id and the URL with its path prefix (Airflow 3 serves /api/v2)"
    else:
        todo = "correct what Airflow names"
    told = f": {detail}" if detail else ""
    return Refused(f"Airflow refused {what} ({status}){told}", status=status, detail=detail, todo=todo)


def _detail(answer: requests.Response) -> str:
    """Airflow's words: FastAPI's ``detail``, a text or a list of what is wrong where."""
    try:
        detail = answer.json().get("detail", "")
    except (ValueError, AttributeError):
        return ""
    if isinstance(detail, list):
        places = [
            (".".join(map(str, item.get("loc", ()))), item.get("msg", ""))
            for item in detail
            if isinstance(item, dict)
        ]
        return "; ".join(f"{place}: {message}" for place, message in places)[:500]
    return str(detail)[:500]


def _host(answer: requests.Response) -> str:
    parts = urlsplit(answer.url)
    return f"{parts.scheme}://{parts.netloc}"
