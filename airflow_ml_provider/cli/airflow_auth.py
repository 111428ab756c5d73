"""How the commands prove to Airflow who they are: a token, a user and password, or a command that prints a token.

Secrets come from the environment or from a command's output, so that none stands in a command line, in a
process list or in a CI job's log.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from airflow_ml_provider.contract.errors import ConfigError, TransientError

TOKEN, USER, PASSWORD = "AIRFLOW_ML_TOKEN", "AIRFLOW_ML_USER", "AIRFLOW_ML_PASSWORD"
HOW_TO_LOG_IN = (
    f"set {TOKEN}, or {USER} and {PASSWORD}, in the environment, or give --token-command: a command that "
    "prints a token"
)
COMMAND_WITHIN = 60.0
KEPT = "nothing was started or changed by this call"

# Asks the auth manager's own endpoint, below the base URL: method, path and body to the answer's document.
Ask = Callable[[str, str, dict[str, str] | None], Any]


class Auth(Protocol):
    """A way to get a bearer token."""

    @property
    def renewable(self) -> bool:
        """Whether asking again may give another token."""
        ...

    def token(self, ask: Ask) -> str:
        """A token that is valid now.

        :raises ConfigError: the credentials are refused.
        """
        ...


@dataclass(frozen=True)
class Token:
    """A token as it is; when it has expired there is no other."""

    value: str = field(repr=False)
    renewable: bool = False

    def token(self, ask: Ask) -> str:
        """The token."""
        return self.value


@dataclass(frozen=True)
class Password:
    """User and password, which the auth manager (simple, FAB, Keycloak) exchanges for a token."""

    user: str
    password: str = field(repr=False)
    renewable: bool = True

    def token(self, ask: Ask) -> str:
        """A new token from ``POST /auth/token``."""
        return _access_token(ask("POST", "/auth/token", {"username": self.user, "password": self.password}))


@dataclass(frozen=True)
class TokenCommand:
    """A command that prints a token, run anew when the token has expired; no shell takes part."""

    command: str
    renewable: bool = True

    def token(self, ask: Ask) -> str:
        """What the command prints."""
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise ConfigError(
                f"the token command cannot be read: {error}", kept=KEPT, todo=HOW_TO_LOG_IN
            ) from None
        if not words:
            raise ConfigError("the token command is empty", todo=HOW_TO_LOG_IN)
        try:
            done = subprocess.run(
                words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=COMMAND_WITHIN, check=False
            )
        except OSError as error:
            raise ConfigError(
                f"the token command {words[0]!r} cannot be run: {error.strerror}",
                todo="check its path; it is run without a shell, so pipes and variables need `sh -c '...'`",
            ) from None
        except subprocess.TimeoutExpired:
            raise TransientError(
                f"the token command {words[0]!r} has not ended after {COMMAND_WITHIN:.0f} s", kept=KEPT
            ) from None
        token = done.stdout.decode(errors="replace").strip()
        if done.returncode or not token or len(token.split()) > 1:
            found = (
                f"ended with exit code {done.returncode}" if done.returncode else "did not print one token"
            )
            raise ConfigError(f"the token command {words[0]!r} {found}", todo="run it by hand")
        return _sendable(token, f"what the token command {words[0]!r} prints")


@dataclass(frozen=True)
class Nobody:
    """No credentials, as a local deployment of which everyone is an admin allows."""

    renewable: bool = True

    def token(self, ask: Ask) -> str:
        """A token from ``GET /auth/token``."""
        return _access_token(ask("GET", "/auth/token", None))


def auth_from_environment(token_command: str = "", env: Mapping[str, str] | None = None) -> Auth:
    """What the environment or the command line offers: a token command, a token, a password, else nothing.

    :raises ConfigError: a user without a password, or the other way round; or a token that is none.
    """
    env = os.environ if env is None else env
    if token_command:
        return TokenCommand(token_command)
    if token := env.get(TOKEN, "").strip():
        return Token(_sendable(token, TOKEN))
    user, password = env.get(USER, ""), env.get(PASSWORD, "")
    if bool(user) != bool(password):
        raise ConfigError(
            f"{USER if user else PASSWORD} is set and the other is not", kept=KEPT, todo=HOW_TO_LOG_IN
        )
    return Password(user, password) if user else Nobody()


def _sendable(token: str, what: str) -> str:
    # What cannot stand in a header would be shown by the error that says so.
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"{what} is no token: it has spaces, line breaks or other than ASCII characters",
                          kept=KEPT, todo=HOW_TO_LOG_IN)  # fmt: skip
    return token


def _access_token(document: Any) -> str:
    token = document.get("access_token") if isinstance(document, dict) else None
    if not isinstance(token, str) or not token:
        raise ConfigError("/auth/token answered without an access_token", kept=KEPT, todo=HOW_TO_LOG_IN)
    return _sendable(token, "what /auth/token answered")
