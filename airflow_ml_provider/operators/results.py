"""What came of a step. A valid result is believed first, then what its place says, then its exit code.

Unknown is not absent: a result that cannot be read is never taken for one that is not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk.exceptions import AirflowSkipException

from airflow_ml_provider.contract.documents import PROTOCOL, Failure, StepResult, StepSpec, read_result
from airflow_ml_provider.contract.errors import (
    ERRORS_BY_KIND,
    ConfigError,
    MLError,
    PreemptedError,
    TransientError,
)

if TYPE_CHECKING:
    from airflow_ml_provider.compute.base import Exit
    from airflow_ml_provider.contract.store import Store

_SHOWN_LINES = 12


def read(store: Store, key: str) -> StepResult | None:
    """The result that a step has left so far, None if it left none.

    :raises TransientError: there is one and it cannot be read.
    """
    path = f"runs/{key}/result.json"
    content = store.read(path)
    if content is None:
        return None
    uri = store.run_uri(key, "result.json")
    try:
        return read_result(content, source=uri)
    except ConfigError as error:
        if f"protocol {PROTOCOL}" in error.what:
            raise
        raise TransientError(
            f"there is a result that cannot be understood, so it is unknown what the step did: {error.what}",
            todo=f"delete {uri} to have the step run again",
        ) from error


def forget(store: Store, key: str) -> None:
    """Remove a result that no longer stands, so that nobody takes it for that of the next try."""
    store.delete(f"runs/{key}/result.json")


def stands(result: StepResult, spec: StepSpec) -> bool:
    """Whether a result is that of exactly this step, and worth having."""
    return result.fingerprint == spec.fingerprint and result.status != "failed"


def believe(store: Store, spec: StepSpec, ended: Exit) -> StepResult:
    """The result of a step whose process ended.

    :raises MLError: it left none; the kind is what its place says, or what its exit code stands for.
    """
    result = read(store, spec.step_key)
    if result is not None and result.fingerprint == spec.fingerprint:
        if (
            result.failure is not None
            and result.failure.kind == PreemptedError.kind
            and ended.error is not None
        ):
            # The step knows that it was asked to end, its place knows why.
            raise ended.error
        return result
    raise ended.failure(
        f"the {spec.verb} step {spec.step_key} ended with exit code {ended.code} and left no result",
        kept="whatever it published before it ended; a publication is whole or not there",
    )


def raise_unless_success(result: StepResult) -> None:
    """End the task as its step ended.

    :raises AirflowSkipException: the step had nothing to do.
    :raises MLError: it failed; the error is of the kind that the step reported.
    """
    if result.status == "skipped":
        raise AirflowSkipException(result.reason)
    if result.status == "failed":
        raise error_of(result.failure or Failure("infrastructure", "", "the step failed and did not say why"))


def error_of(failure: Failure) -> MLError:
    """A step's error again, with its parts; the end of the user's traceback is a note to it."""
    parts = {"kept": "", "retry": "", "next": ""}
    what: list[str] = []
    for line in failure.message.splitlines():
        name, _, text = line.strip().partition(": ")
        if line.startswith("  ") and name in parts and not parts[name]:
            parts[name] = text
        else:
            what.append(line)
    error = ERRORS_BY_KIND[failure.kind](
        "\n".join(what), kept=parts["kept"], retry=parts["retry"], todo=parts["next"]
    )
    if failure.traceback:
        error.add_note("\n".join(failure.traceback.rstrip().splitlines()[-_SHOWN_LINES:]))
    return error
