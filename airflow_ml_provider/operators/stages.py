"""The stages of a task: the next is written down before it begins, since after a deferral another process goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_ml_provider.contract.documents import StepSpec
    from airflow_ml_provider.contract.store import Store


def intend(store: Store, spec: StepSpec, folder: str, stage: str) -> None:
    """Write down the stage that comes next.

    :param folder: of the step's run: what kind of stages these are.
    """
    store.write_json(_path(spec, folder), {"fingerprint": spec.fingerprint, "stage": stage})


def intended(store: Store, spec: StepSpec, folder: str) -> str | None:
    """The stage that was written down last for this very spec; None if there is none."""
    found = store.read_json(_path(spec, folder)) or {}
    return found.get("stage") if found.get("fingerprint") == spec.fingerprint else None


def _path(spec: StepSpec, folder: str) -> str:
    return f"runs/{spec.step_key}/{folder}/stage.json"
