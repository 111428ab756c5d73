"""Stand-ins for what surrounds an operator: a task's context, a compute, a server at the end of the wire."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from airflow_ml_provider.compute import Compute, Exit, Launch
from airflow_ml_provider.contract.documents import StepResult, StepSpec, read_spec
from airflow_ml_provider.contract.store import Store, local_path


class FakeTaskInstance(SimpleNamespace):
    """As much of Airflow's task instance as an operator sees."""

    def xcom_pull(self, task_ids: Any = None, **_: Any) -> Any:
        return self.outputs[task_ids]


def context_of(
    task: Any,
    *,
    run_id: str = "manual__1",
    try_number: int = 1,
    map_index: int = -1,
    partition_key: str | None = None,
    outputs: dict[str, Any] | None = None,
    params: dict[str, Any] | None = None,
    user: str | None = None,
) -> Any:
    """The context of one try of a task, with Airflow's own event accessors."""
    from airflow.sdk.execution_time.context import OutletEventAccessors

    ti = FakeTaskInstance(
        dag_id=task.dag_id, task_id=task.task_id, run_id=run_id, map_index=map_index, try_number=try_number,
        log_url=f"http://airflow/dags/{task.dag_id}/runs/{run_id}/tasks/{task.task_id}?try_number={try_number}",
        bundle_instance=SimpleNamespace(path=Path(task.dag.fileloc).parent), outputs=outputs or {}, task=task,
    )  # fmt: skip
    dag_run = SimpleNamespace(
        partition_key=partition_key, triggering_user_name=user, run_type="manual", run_id=run_id,
        logical_date=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    return {
        "ti": ti, "task_instance": ti, "task": task, "dag": task.dag, "dag_run": dag_run, "run_id": run_id,
        "params": params or {}, "outlet_events": OutletEventAccessors(), "expanded_ti_count": None,
    }  # fmt: skip


def run_task(task: Any, context: Any = None, **given: Any) -> dict[str, Any]:
    """Render a task's templates and execute it, as the task runner does."""
    context = context if context is not None else context_of(task, **given)
    running = task.prepare_for_execution()
    context["ti"].task = context["task"] = running
    running.render_template_fields(context)
    output: dict[str, Any] = running.execute(context)
    return output


def events_of(context: Any) -> dict[str, dict[str, Any]]:
    """What Airflow would emit if the task ended well now: asset name to the event's extra."""
    task, told = context["task"], context["outlet_events"]
    return {asset.name: dict(told[asset].extra) for asset in task.outlets}


@dataclass(frozen=True)
class FakeCompute(Compute):
    """Ends each step as it is told to, and keeps what it was given.

    ``ends_with`` are fields of the result, or None for a step that leaves none.
    """

    ends_with: dict[str, Any] | None = field(default_factory=dict, hash=False)
    exit: Exit = field(default_factory=lambda: Exit(0))
    launches: list[Launch] = field(default_factory=list, hash=False)
    cancelled: list[str] = field(default_factory=list, hash=False)
    place: str = ""

    def run(self, launch: Launch, context: Any) -> Exit:
        self.launches.append(launch)
        return self._leave(launch)

    def resume(self, launch: Launch, context: Any, event: Any) -> Exit:
        return self._leave(launch)

    def cancel(self, launch: Launch) -> None:
        self.cancelled.append(launch.step_key)

    def content(self) -> dict[str, str]:
        return {"image": self.place} if self.place else {}

    def _leave(self, launch: Launch) -> Exit:
        spec = self.spec(launch)
        if self.ends_with is not None:
            fields = {
                "status": "success",
                "fingerprint": spec.fingerprint,
                "parts": spec.parts,
                **self.ends_with,
            }
            result = msgspec.convert(
                {"verb": spec.verb, "step_key": spec.step_key, **msgspec.to_builtins(fields)}, StepResult
            )
            Store(spec.store).write(f"runs/{spec.step_key}/result.json", result.encode())
        return self.exit

    def spec(self, launch: Launch | None = None) -> StepSpec:
        """The spec of a launch, the last one by default."""
        uri = (launch or self.launches[-1]).spec_uri
        return read_spec(local_path(uri).read_bytes(), source=uri)


@dataclass
class Wire:
    """A local HTTP server that answers as it is told and keeps the requests."""

    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    requests: list[SimpleNamespace] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def alias(self, version: int, *, name: str = "flight_delays") -> None:
        """Answer that an alias names a version."""
        found = {"model_version": {"name": name, "version": str(version), "run_id": f"run{version}"}}
        self.answers["/api/2.0/mlflow/registered-models/alias"] = (200, found)

    def no_alias(self) -> None:
        """Answer as MLflow does where the model has no such alias."""
        said = {"error_code": "INVALID_PARAMETER_VALUE", "message": "Registered model alias x not found."}
        self.answers["/api/2.0/mlflow/registered-models/alias"] = (400, said)
