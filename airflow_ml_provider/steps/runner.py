"""Runs one step: reads its spec, calls its verb, writes its result last."""

from __future__ import annotations

import importlib
import logging
import os
import random
import shutil
import sys
import threading
import time
import traceback

import msgspec

from airflow_ml_provider.contract.documents import Failure, StepResult, StepSpec, read_result, read_spec
from airflow_ml_provider.contract.errors import InfrastructureError, MLError
from airflow_ml_provider.contract.scratch import VARIABLE as SCRATCH
from airflow_ml_provider.contract.scratch import new_folder_of
from airflow_ml_provider.contract.store import Store, is_local, local_path
from airflow_ml_provider.steps import garbage, shipped_code
from airflow_ml_provider.steps.context import Outcome, Skipped, StepContext, log
from airflow_ml_provider.steps.place import Ending


def load_spec(uri: str) -> StepSpec:
    """Read a spec from a file or from a store."""
    if is_local(uri):
        path = local_path(uri)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise MLError(f"the spec {path} cannot be read: {error.strerror}") from error
        return read_spec(content, source=str(path))
    folder, _, name = uri.rpartition("/")
    found = Store(folder).read(name)
    if found is None:
        raise MLError(f"there is no spec at {uri}")
    return read_spec(found, source=uri)


def run_step(spec: StepSpec, *, verify: bool = False) -> StepResult:
    """Run a step and write its result; failures are results too, and are given back, not raised.

    :param verify: only compare what it gives now with what it has given before.
    """
    started = time.monotonic()

    def keep(result: StepResult) -> StepResult:
        spent = round(time.monotonic() - started, 3)
        result = msgspec.structs.replace(result, seconds=spent, parts=spec.parts)
        Store(spec.store).write(f"runs/{spec.step_key}/result.json", result.encode())
        return result

    def leave_word(error: MLError) -> None:
        keep(_failed(spec, error))

    ending = Ending(leave_word)
    ending.watch()
    result = _attempt(spec, ending, verify=verify)
    try:
        with ending.concluding():
            result = keep(result)
    except MLError as error:
        # Without a result the step has not happened, whatever it did; its publications are found again.
        if result.failure is None:
            return _failed(spec, error)
        log.error("the failure could not be recorded in the store: %s", error)
    return result


def existing_result(spec: StepSpec) -> StepResult | None:
    """The result of an earlier try of exactly this step, if it ended well."""
    uri = f"runs/{spec.step_key}/result.json"
    content = Store(spec.store).read(uri)
    if content is None:
        return None
    try:
        result = read_result(content, source=uri)
    except MLError as error:
        log.warning("an earlier result is not usable and will be replaced: %s", error.what)
        return None
    return result if result.fingerprint == spec.fingerprint and result.status != "failed" else None


def end_with_parent() -> None:
    """End this process when the one that started it is gone: nobody would read its result.

    The parent holds the other end of our standard input; it closes when the parent dies, however it dies.
    """

    def wait() -> None:
        try:
            while os.read(0, 1024):
                pass
        except OSError:
            pass
        log.error("the process that started this step is gone; ending")
        if folder := os.environ.get(SCRATCH):
            # It would have removed it.
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(InfrastructureError.exit_code)

    threading.Thread(target=wait, daemon=True, name="parent-watch").start()


def set_seeds(seed: int) -> None:
    """Seed what is loaded everywhere; a function that draws otherwise takes ``seed`` as a parameter."""
    random.seed(seed)
    import numpy

    numpy.random.seed(seed % 2**32)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)


def _attempt(spec: StepSpec, ending: Ending, *, verify: bool = False) -> StepResult:
    scratch = ending.scratch = new_folder_of(spec.step_key)
    step = None
    try:
        spec = shipped_code.laid_down(spec, scratch)
        arguments = spec.typed_arguments()
        step = StepContext(spec, scratch)
        verb = importlib.import_module(f"airflow_ml_provider.steps.{'verification' if verify else spec.verb}")
        garbage.from_now_on()
        set_seeds(spec.seed)
        outcome: Outcome = verb.run(step, arguments)
        return StepResult(
            spec.verb, spec.step_key, spec.fingerprint, "success", table=outcome.table, tables=outcome.tables,
            model=outcome.model, verdict=outcome.verdict or step.audit_verdict, metrics=outcome.metrics,
            summary=outcome.summary, links={**step.audit_links, **outcome.links},
            warnings=tuple(step.warnings), mlflow_run_id=outcome.mlflow_run_id, timely=outcome.timely,
        )  # fmt: skip
    except Skipped as reason:
        return StepResult(spec.verb, spec.step_key, spec.fingerprint, "skipped", reason=str(reason))
    except MLError as error:
        return _failed(spec, error, step)
    except MemoryError as error:
        return _failed(spec, InfrastructureError(f"out of memory: {error}"), step)
    except Exception as error:
        log.error("unexpected error", exc_info=True)
        unexpected = InfrastructureError(
            f"the {spec.verb} step failed unexpectedly: {type(error).__name__}: {error}",
            todo="see the traceback above; if it lies in airflow_ml_provider, please report it",
        )
        return _failed(spec, unexpected, step, traceback.format_exc())
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _failed(spec: StepSpec, error: MLError, step: StepContext | None = None, trace: str = "") -> StepResult:
    failure = Failure(error.kind, type(error).__name__, str(error), getattr(error, "user_traceback", trace))
    verdict = getattr(error, "verdict", None)
    return StepResult(
        spec.verb, spec.step_key, spec.fingerprint, "failed", failure=failure, verdict=verdict,
        warnings=tuple(step.warnings) if step else (), links=getattr(error, "links", {}),
    )  # fmt: skip


def set_up_logging() -> None:
    """One line an event, on standard output, where Airflow and pods collect it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    logging.captureWarnings(True)
    # These tell each request or expectation at INFO.
    for noisy in (
        "great_expectations",
        "mlflow",
        "urllib3",
        "alembic",
        "matplotlib",
        "fontTools",
        "py.warnings",
    ):
        logging.getLogger(noisy).setLevel(logging.ERROR if noisy == "py.warnings" else logging.WARNING)
