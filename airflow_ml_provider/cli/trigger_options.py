"""The options of ``airflow-ml trigger``, read and checked before anything is called.

An option with an empty value is as one left out, so that a build server's template can pass all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_ml_provider.cli.conditions import Condition, parse_condition
from airflow_ml_provider.contract.ages import age_seconds
from airflow_ml_provider.contract.errors import ConfigError

if TYPE_CHECKING:
    from airflow_ml_provider.cli.airflow_client import AirflowClient

URL = "AIRFLOW_ML_URL"
EXIT_CODES = """\
exit codes:
  0    the run succeeded and every gate was met (without --wait: the run was started or found)
  1    the run failed
  2    the command line is wrong
  3    the run succeeded and a gate was not met
  4    the run had not ended by --timeout; it goes on
  64   Airflow refused: credentials, permissions, no such DAG, a paused one, the same key with other parameters
  75   Airflow could not be reached for --patience; a run that was started goes on
  130  interrupted (Ctrl-C), 143 terminated; the run goes on, but with --cancel-on-interrupt

the credentials come from the environment: AIRFLOW_ML_TOKEN, or AIRFLOW_ML_USER and AIRFLOW_ML_PASSWORD
"""

_Read = TypeVar("_Read")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "trigger",
        help="start a DAG run from CI, follow it and judge it; needs no Airflow here",
        description="Starts or finds a run of a DAG through Airflow's REST API, follows it to its end, holds what its "
        "tasks report against gates and writes reports. Whoever starts it again with the same --key attaches to the "
        "same run.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("dag", metavar="DAG", help="id of the DAG")
    add_connection(parser)
    _add_run(parser)
    _add_waiting(parser)


def add_connection(parser: argparse.ArgumentParser) -> None:
    """The options that say where Airflow is and who asks; ``client_of`` reads them."""
    group = parser.add_argument_group("Airflow")
    group.add_argument("--url", default=os.environ.get(URL, ""), help=f"Airflow's address, or ${URL}")
    group.add_argument(
        "--token-command", default="", metavar="COMMAND", help="prints a token; run without a shell"
    )
    group.add_argument(
        "--ca", default="", type=_file, metavar="FILE", help="certificate of Airflow's CA, as PEM"
    )
    group.add_argument(
        "--patience",
        default=300,
        type=_duration,
        metavar="TIME",
        help="how long to try again while Airflow does not answer: 90s, 5m (the default)",
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the run")
    group.add_argument(
        "--param",
        action="append",
        default=[],
        type=_pair,
        metavar="NAME=VALUE",
        help="a parameter; JSON where it is JSON, else text; may be repeated",
    )
    group.add_argument(
        "--params", default={}, type=_params, metavar="JSON|@FILE", help="parameters as a JSON object"
    )
    group.add_argument("--partition", metavar="KEY", help="partition key of the run")
    which = group.add_mutually_exclusive_group()
    which.add_argument(
        "--key", default="", help="names the run: the same key finds the same run; a commit, say"
    )
    which.add_argument(
        "--attach", default="", metavar="RUN_ID", help="follow this run, start none; parameters do not count"
    )
    group.add_argument(
        "--retry-failed", action="store_true", help="if the run found has failed, clear its failed tasks"
    )
    group.add_argument("--unpause", action="store_true", help="unpause the DAG first")


def _add_waiting(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("waiting and judging")
    group.add_argument(
        "--wait", action="store_true", help="follow the run to its end; implied by the options below"
    )
    group.add_argument(
        "--gate",
        action="append",
        default=[],
        type=_gates,
        metavar="CONDITION",
        help='"roc_auc>=0.74", "verdict==promote", "task.metric<=1"; may be repeated, or hold a gate a line',
    )
    group.add_argument(
        "--timeout", type=_duration, metavar="TIME", help="how long to wait for the end: 30m, 2h"
    )
    group.add_argument(
        "--junit", default="", metavar="FILE", help="write JUnit XML: a case for each task and gate"
    )
    group.add_argument("--report", default="", metavar="FILE", help="write a Markdown report")
    group.add_argument(
        "--cancel-on-interrupt", action="store_true", help="mark the run failed on Ctrl-C or SIGTERM"
    )
    group.add_argument("--poll", default=3, type=_duration, metavar="TIME", help="between two looks (3s)")


def waits(options: argparse.Namespace) -> bool:
    """Whether the run is to be followed."""
    asks = ("wait", "timeout", "junit", "report", "cancel_on_interrupt")
    return bool(gates_of(options)) or any(getattr(options, name) for name in asks)


def gates_of(options: argparse.Namespace) -> list[Condition]:
    """The conditions of all ``--gate``."""
    return [condition for given in options.gate for condition in given]


def conf_of(options: argparse.Namespace) -> dict[str, Any]:
    """The run's parameters: ``--params``, and each ``--param`` over it."""
    return {**options.params, **dict(options.param)}


def _told(read: Callable[[str], _Read]) -> Callable[[str], _Read]:
    """An argument's reader whose mistakes argparse tells, with the option's name."""

    def reader(text: str) -> _Read:
        try:
            return read(text)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(f"{error.what}; {error.todo}") from None

    return reader


@_told
def _gates(text: str) -> list[Condition]:
    return [parse_condition(line) for line in text.splitlines() if line.strip()]


@_told
def _duration(text: str) -> int | None:
    return age_seconds(text, what="time") if text else None


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value, parse_constant=_no_number)
    except ValueError:
        return name, value


def _params(text: str) -> dict[str, Any]:
    try:
        if not text:
            return {}
        source = text if not text.startswith("@") else _content(text[1:])
        document = json.loads(source, parse_constant=_no_number)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"cannot be read as JSON: {error}") from None
    if not isinstance(document, dict):
        raise argparse.ArgumentTypeError("is JSON, but no object of names and values")
    return document


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _content(name: str) -> str:
    return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")


def _file(text: str) -> str:
    if text and not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return text


def client_of(options: argparse.Namespace, say: Callable[[str], None]) -> AirflowClient:
    """The connection that the options of :func:`add_connection` describe.

    :param say: told of what takes long, such as an Airflow that does not answer.
    :raises ConfigError: no URL, or half of the credentials.
    """
    from airflow_ml_provider.cli.airflow_auth import auth_from_environment
    from airflow_ml_provider.cli.airflow_client import AirflowClient

    if not options.url:
        raise ConfigError(
            "it is not said where Airflow is", kept="nothing was done", todo=f"give --url, or set {URL}"
        )
    return AirflowClient(
        options.url,
        auth_from_environment(options.token_command),
        verify=options.ca or True,
        patience=options.patience or 300,
        say=say,
    )
