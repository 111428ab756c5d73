"""What an operator says of its results: who may use them, while what stands, and what they are for another run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_ml_provider import config
from airflow_ml_provider.contract.errors import ConfigError, did_you_mean
from airflow_ml_provider.contract.memo import CONTENTS, SOURCE
from airflow_ml_provider.contract.models import Model
from airflow_ml_provider.operators import contents

if TYPE_CHECKING:
    from airflow_ml_provider.contract.documents import StepResult, StepSpec
    from airflow_ml_provider.contract.store import Store

MODES = ("reuse", "rerun", "verify")
# Their result names the model version that they made, or judged.
_REGISTERS = ("train", "evaluate", "fleet", "search")


class Reusable:
    """Half of a step operator: its results in the eyes of later runs."""

    # False for a step that reads what no fingerprint covers: it looks for itself whether there is work.
    reusable: bool = True
    # False for a step that changes more than it publishes: only tries of the same task instance share a result.
    shared: bool = True
    task_id: str
    cache: str

    def reuses(self, spec: StepSpec) -> bool:
        """Whether a result of an equal step is worth looking for: its fingerprint covers all that it reads."""
        return self.reusable or SOURCE in (spec.parts.get(CONTENTS) or {})

    def shares(self, spec: StepSpec) -> bool:
        """Whether results of other tasks do as well."""
        return self.shared and self.reuses(spec)

    @property
    def cache_mode(self) -> str:
        """How the task uses what is known; as the deployment says where the DAG does not.

        :raises ConfigError: there is no such mode.
        """
        # An empty template is None where templates give native values.
        found = str(self.cache or "").strip().replace("None", "") or config.cache()
        if found not in MODES:
            raise ConfigError(f"task {self.task_id!r} has cache={found!r}", todo=did_you_mean(found, MODES))
        return found

    def source_identity(self) -> str | None:
        """What tells whether files that the step reads, and no table version covers, are as they were."""
        return None

    def as_good_as(self, store: Store, spec: StepSpec) -> Iterable[Mapping[str, Any]]:
        """Parts of other steps whose result would do as well."""
        return ()

    def without_running(self, store: Store, spec: StepSpec) -> StepResult | None:
        """The result, where it takes no process to tell that there is nothing to do."""
        return None

    def adopt(self, result: StepResult, spec: StepSpec) -> StepResult:
        """The result of another run as this run would have it."""
        table = result.table
        if table is None:
            return result
        # The newest version has the same rows in these partitions; others may be there by now, too.
        newest = config.store().latest_version(table.name) or table.version
        table = msgspec.structs.replace(table, version=newest, changed=False)
        return msgspec.structs.replace(result, table=table)

    def no_longer_stands(self, store: Store, result: StepResult) -> str:
        """Why what a result refers to is not there any more; empty if it is.

        :raises TransientError: MLflow cannot be asked.
        """
        if result.table is not None and getattr(self, "publish", None) is not None:
            for published in (result.table, *result.tables.values()):
                if gone := contents.no_longer_published(store, published):
                    return gone
        if result.model is not None and result.verb in _REGISTERS:
            from airflow_ml_provider.hooks.mlflow import MlflowHook

            name, version = result.model.name, result.model.version
            if MlflowHook().find(Model(name, version=version)) is None:
                return f"the model {name}/{version} is gone from MLflow"
        return ""
