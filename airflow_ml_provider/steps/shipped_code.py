"""The user's code where the DAG's folders are not: fetched from the store, verified, laid down."""

from __future__ import annotations

from pathlib import Path

import msgspec

from airflow_ml_provider.contract.documents import StepSpec
from airflow_ml_provider.contract.errors import InfrastructureError
from airflow_ml_provider.contract.packing import unpack
from airflow_ml_provider.contract.store import Store


def laid_down(spec: StepSpec, scratch: Path) -> StepSpec:
    """The spec with code folders that are here.

    :raises InfrastructureError: the packed code is gone, or not what was packed.
    """
    if not spec.code.archive:
        return spec
    content = Store(spec.store).read(spec.code.archive)
    if content is None:
        raise InfrastructureError(
            f"the step's packed code is not in the store {spec.store}: {spec.code.archive}",
            todo="clear the task: its next try packs and sends the code again",
        )
    folder = scratch / "code"
    unpack(content, spec.code.archive_digest, folder)
    return msgspec.structs.replace(spec, code=msgspec.structs.replace(spec.code, roots=(str(folder),)))
