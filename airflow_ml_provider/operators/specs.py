"""Makes the spec of a task's step: everything it depends on, pinned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from airflow_ml_provider import __version__, config
from airflow_ml_provider.contract.documents import PROTOCOL, StepSpec, Tracking, read_spec
from airflow_ml_provider.contract.errors import InfrastructureError
from airflow_ml_provider.contract.memo import CONTENTS, SOURCE, content_fingerprint
from airflow_ml_provider.operators import contents, runs
from airflow_ml_provider.operators.pins import Pins, code_of, code_roots, commit_of
from airflow_ml_provider.operators.shipping import shipped

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_ml_provider.contract.store import Store
    from airflow_ml_provider.operators.base import StepOperator


def spec_of(operator: StepOperator, store: Store, context: Context) -> StepSpec:
    """The spec of the step that a task is to run now.

    :raises MLError: what it names does not exist, or cannot be looked up.
    """
    pins = Pins(store, wanted_by=f"task {operator.task_id!r}")
    arguments = operator.arguments(pins, context)
    roots = code_roots(operator.code, operator.dag.fileloc, runs.bundle_of(context))
    code = code_of(operator.entry_points(), roots, commit_of(roots))
    compute = operator._compute()
    if compute.ships_code:
        points, named = operator.entry_points(), operator.code is not None
        code = shipped(code, points, store, named=named, looks_for_code=operator.looks_for_code)
    from airflow_ml_provider.hooks.mlflow import find_hook

    hook = find_hook()
    tracking = Tracking(
        hook.tracking_uri if hook else "",
        config.experiment(operator.dag_id),
        config.mlflow_browse_url(),
    )
    builtins: dict[str, Any] = msgspec.to_builtins(arguments)
    parts = {
        "verb": operator.verb,
        "code": code.digest,
        "seed": operator.seed,
        "protocol": PROTOCOL,
        "package": __version__,
        **compute.content(),
        **operator.further_parts(pins, arguments),
        **{name: value for name, value in builtins.items() if name not in arguments.only_how},
    }
    known = contents.contents_read(store, operator.verb, arguments)
    if source := operator.source_identity():
        known[SOURCE] = source
    if known:
        parts[CONTENTS] = known
    spec = StepSpec(
        verb=operator.verb,
        store=store.uri,
        arguments=builtins,
        step_key=runs.step_key_of(context),
        seed=operator.seed,
        code=code,
        tracking=tracking,
        run=runs.run_of(context),
        parts=parts,
        fingerprint=content_fingerprint(parts),
    )
    spec.typed_arguments()
    return spec


def kept_spec(store: Store, context: Context) -> StepSpec:
    """The spec that a task wrote before it deferred: what was pinned then stays pinned.

    :raises InfrastructureError: it is gone.
    """
    key = runs.step_key_of(context)
    uri = store.run_uri(key, "spec.json")
    content = store.read(f"runs/{key}/spec.json")
    if content is None:
        raise InfrastructureError(f"the spec that was started is gone: {uri}")
    return read_spec(content, source=uri)
