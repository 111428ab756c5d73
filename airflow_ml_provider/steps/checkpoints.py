"""The checkpoints of a step: in its folder of the store, by fingerprint.

::

    {store}/runs/{step key}/checkpoints/{fingerprint}/
        parts.json    what the fingerprint is made of
        {step:08d}/   a checkpoint, see airflow_ml_provider.contract.checkpoints

So a retry, a cleared task and a pod on another node find them, and a training on other code, data or
parameters does not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.contract.checkpoints import Checkpoint, remove_all
from airflow_ml_provider.contract.errors import MLError
from airflow_ml_provider.contract.identity import explain_difference

if TYPE_CHECKING:
    from airflow_ml_provider.steps.context import StepContext

_PARTS = "parts.json"


class StepCheckpoint(Checkpoint):
    """What a training function in a step gets for its parameter annotated ``Checkpoint``."""

    def __init__(self, step: StepContext) -> None:
        self._step = step
        self._own = f"{_root(step)}/{step.spec.fingerprint[:16]}"
        self._described = False
        super().__init__(
            step.store, self._own, scratch=step.scratch / "checkpoints", log=step.log, warn=step.warn
        )

    @contextmanager
    def save(self, step: int) -> Iterator[Path]:
        """See :meth:`~airflow_ml_provider.contract.checkpoints.Checkpoint.save`."""
        with super().save(step) as folder:
            yield folder
        if not self._described:
            self._described = True
            self._describe()

    def _describe(self) -> None:
        """Write down what the fingerprint is made of, for the sentence on why another starts afresh."""
        document = {"saved_at": time.time(), "parts": self._step.spec.parts}
        try:
            self._step.store.create(f"{self._own}/{_PARTS}", json.dumps(document, default=str).encode())
        except MLError as error:
            self._step.log.info("what the checkpoints belong to is not written down: %s", error.what)

    def _beginning(self) -> str:
        store, own = self._step.store, f"{self._own}/"
        names = [path for path in store.paths(_root(self._step)) if path.endswith(f"/{_PARTS}")]
        others = [_described(store.read(path)) for path in names if not path.startswith(own)]
        if not others:
            return super()._beginning()
        newest = max(others, key=lambda other: float(other["saved_at"]))
        # As the parts are after a journey through JSON.
        now = json.loads(json.dumps(self._step.spec.parts, default=str))
        changed = explain_difference(newest["parts"], now) if newest["parts"] else ""
        why = f" ({changed})" if changed else ""
        return f"no checkpoint of this code, data and parameters{why}: training starts at the beginning"


def remove(step: StepContext) -> None:
    """Remove a step's checkpoints, once its model is registered; what cannot be removed is told and left."""
    try:
        remove_all(step.store, _root(step))
    except MLError as error:
        step.log.info("the checkpoints of this step are left in the store: %s", error.what)


def _described(content: bytes | None) -> dict[str, Any]:
    try:
        return dict(json.loads(content or b""))
    except ValueError:
        # It serves a sentence only.
        return {"saved_at": 0, "parts": {}}


def _root(step: StepContext) -> str:
    return f"runs/{step.key}/checkpoints"
