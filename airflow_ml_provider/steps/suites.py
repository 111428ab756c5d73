"""Great Expectations suites: finding the one that a reference names."""

from __future__ import annotations

import copy
import inspect
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.contract.errors import UserCodeError, did_you_mean
from airflow_ml_provider.steps import functions

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite

    from airflow_ml_provider.steps.context import StepContext


def load_suite(step: StepContext, reference: str) -> ExpectationSuite:
    """The suite behind a reference.

    :param reference: ``"package.module:name"`` of a suite, an expectation, a list of expectations, or a
        function without parameters that gives one of these; the path of a suite's JSON document, beside the
        user's code or absolute; or that document itself.
    :raises UserCodeError: there is no such thing, or it is no suite; says what is wrong with it.
    """
    import_gx()
    if document := suite_document(step, reference):
        return _from_document(document, reference if len(reference) < 200 else "the suite")
    found = functions.user_code(step, reference)
    if callable(found) and not hasattr(found, "expectations"):
        if inspect.signature(found).parameters:
            raise UserCodeError(f"{reference} takes parameters; a suite's function takes none")
        with functions.blame(found):
            found = found()
    return _as_suite(found, reference)


def suite_document(step: StepContext, reference: str) -> bytes | None:
    """The JSON text of a suite that is not defined in Python; None for one that is."""
    if reference.lstrip().startswith("{"):
        return reference.encode()
    if not reference.endswith(".json"):
        return None
    places = [Path(root) / reference for root in step.spec.code.roots] or [Path(reference)]
    for place in places:
        if place.is_file():
            return place.read_bytes()
    raise UserCodeError(
        f"there is no suite {reference}", todo=f"looked for {', '.join(str(place) for place in places)}"
    )


def import_gx() -> None:
    """Import Great Expectations, told to report nothing to anybody and to log only what matters."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    logger = logging.getLogger("great_expectations")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.WARNING)
    import great_expectations  # noqa: F401


def _as_suite(found: Any, reference: str) -> ExpectationSuite:
    import great_expectations as gx
    from great_expectations.expectations.expectation import Expectation

    if isinstance(found, gx.ExpectationSuite):
        suite = found
    else:
        expectations = [found] if isinstance(found, Expectation) else found
        if not isinstance(expectations, list | tuple) or not all(
            isinstance(one, Expectation) for one in expectations
        ):
            raise UserCodeError(
                f"{reference} gives {type(found).__name__}, not a suite",
                todo="give a great_expectations.ExpectationSuite, or a list of expectations",
            )
        suite = gx.ExpectationSuite(name=reference, expectations=[copy.copy(one) for one in expectations])
    if not suite.expectations:
        raise UserCodeError(f"suite {suite.name!r} ({reference}) has no expectation")
    return suite


def _from_document(document: bytes, reference: str) -> ExpectationSuite:
    import great_expectations as gx
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
    from great_expectations.expectations.registry import list_registered_expectation_implementations

    try:
        content = json.loads(document)
        name, expectations = str(content.get("name") or reference), list(content["expectations"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserCodeError(
            f"{reference} is not a suite: {type(error).__name__}: {error}",
            todo='it has the form {"name": ..., "expectations": [{"type": ..., "kwargs": {...}}]}',
        ) from error
    known = list_registered_expectation_implementations()
    built = []
    for number, one in enumerate(expectations, 1):
        kind = one.get("type") if isinstance(one, dict) else None
        if kind not in known:
            raise UserCodeError(
                f"expectation {number} of {reference} is of unknown type {kind!r}",
                todo=did_you_mean(str(kind), sorted(known)),
            )
        try:
            configuration = ExpectationConfiguration(
                type=kind, kwargs=one.get("kwargs") or {}, meta=one.get("meta"), notes=one.get("notes")
            )
            built.append(configuration.to_domain_obj())
        except Exception as error:
            # GX's own checks raise errors of several libraries; each is about this expectation.
            raise UserCodeError(f"expectation {number} of {reference} ({kind}) is wrong: {error}") from error
    return _as_suite(gx.ExpectationSuite(name=name, expectations=built), reference)
