"""Tasks that compute in this process: their steps are the real ones, and it is counted how often they run."""

from __future__ import annotations

import asyncio
import json
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import TaskDeferred
from airflow.sdk.execution_time.context import OutletEventAccessors
from airflow.sdk.module_loading import import_string
from airflow.sdk.serde import deserialize, serialize

from airflow_ml_provider import Column, Gate, Schema, Table
from airflow_ml_provider.compute import Compute, Exit, Launch
from airflow_ml_provider.contract.documents import read_spec
from airflow_ml_provider.contract.store import Store, local_path
from airflow_ml_provider.operators import (
    EvaluateOperator,
    FeaturesOperator,
    IngestOperator,
    PredictOperator,
    PromoteOperator,
    TrainOperator,
    ValidateOperator,
)

DAYS = ("2013-01-01", "2013-01-02", "2013-01-03")
SUITE = {
    "name": "orders",
    "expectations": [{"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "id"}}],
}
SHOP = """
    import polars as pl
    from airflow_ml_provider import FeatureSet

    def orders(raw: pl.LazyFrame) -> pl.LazyFrame:
        return raw.select("id", "ds", "amount", pl.col("at").str.to_datetime(time_zone="UTC"))

    SET = FeatureSet(rows=orders, key=("id",), prediction_time="at", row_features=("amount",), views=())
    """


@dataclass(frozen=True)
class HereCompute(Compute):
    """Runs each step in this process, exactly as its own process would, and keeps the launches.

    :param before: called with the launch before it runs.
    """

    launches: list[Launch] = field(default_factory=list, hash=False)
    before: list[Callable[[Launch], None]] = field(default_factory=list, hash=False)

    def run(self, launch: Launch, context: Any) -> Exit:
        from airflow_ml_provider.steps import runner

        self.launches.append(launch)
        for call in self.before:
            call(launch)
        spec = read_spec(local_path(launch.spec_uri).read_bytes(), source=launch.spec_uri)
        runner.run_step(spec, verify="--verify" in launch.arguments)
        return Exit(0)

    def cancel(self, launch: Launch) -> None:
        """Nothing runs on."""

    @property
    def verbs(self) -> list[str]:
        """What ran, in order."""
        return [launch.verb + ("?" if "--verify" in launch.arguments else "") for launch in self.launches]


class FakeTaskInstance(SimpleNamespace):
    def xcom_pull(self, task_ids: Any = None, **_: Any) -> Any:
        return self.outputs[task_ids]


def context_of(task: Any, run_id: str, **given: Any) -> Any:
    """The context of a try: ``try_number``, ``max_tries``, ``params``, ``outputs`` of other tasks."""
    ti = FakeTaskInstance(
        dag_id=task.dag_id, task_id=task.task_id, run_id=run_id, map_index=-1,
        try_number=given.get("try_number", 1), max_tries=given.get("max_tries", 0),
        log_url=f"http://airflow/{task.dag_id}/{run_id}/{task.task_id}?try_number=1", bundle_instance=None,
        outputs=given.get("outputs", {}), task=task,
    )  # fmt: skip
    dag_run = SimpleNamespace(partition_key=None, triggering_user_name=None, run_type="manual", run_id=run_id)
    return {
        "ti": ti, "task_instance": ti, "task": task, "dag": task.dag, "dag_run": dag_run, "run_id": run_id,
        "params": given.get("params", {}), "outlet_events": OutletEventAccessors(), "expanded_ti_count": None,
    }  # fmt: skip


def run(task: Any, run_id: str = "run_1", **given: Any) -> dict[str, Any]:
    """One try of a task; ``event`` resumes one that waited for somebody's claim."""
    context = given.pop("context", None) or context_of(task, run_id, **given)
    running = task.prepare_for_execution()
    context["ti"].task = context["task"] = running
    running.render_template_fields(context)
    event = given.get("event")
    output: dict[str, Any] = running.claimed(context, event) if event else running.execute(context)
    return output


def waits(task: Any, run_id: str, **given: Any) -> Any:
    """The trigger of a try that waits for somebody else's claim."""
    with pytest.raises(TaskDeferred) as deferred:
        run(task, run_id, **given)
    assert deferred.value.method_name == "claimed"
    return deferred.value.trigger


def told_by(trigger: Any, **changes: Any) -> dict[str, Any]:
    """What a trigger tells, in another process than the one that made it."""
    path, kwargs = trigger.serialize()
    again = import_string(path)(**deserialize(serialize({**kwargs, "poll_interval": 0.05, **changes})))

    async def first() -> dict[str, Any]:
        async for event in again.run():
            payload: dict[str, Any] = event.payload
            return payload
        raise AssertionError("the trigger ended without an event")

    return asyncio.run(first())


def to_the_end(task: Any, run_id: str) -> dict[str, Any]:
    """A try through all its waiting."""
    event: dict[str, Any] | None = None
    while True:
        try:
            return run(task, run_id, event=event)
        except TaskDeferred as deferred:
            event = told_by(deferred.trigger)


@dataclass
class Shop:
    """A table of orders by day, and tasks over it in any DAG."""

    store: Store
    code: Path
    compute: HereCompute = field(default_factory=HereCompute)

    @classmethod
    def at(cls, store: Store, folder: Path) -> Shop:
        """With the orders of three days, a feature set and a suite."""
        found = cls(store, folder / "code")
        found.code.mkdir()
        found.write("shop", SHOP)
        (found.code / "suite.json").write_text(json.dumps(SUITE))
        found.publish(1.0, *DAYS)
        return found

    def write(self, module: str, text: str) -> None:
        (self.code / f"{module}.py").write_text(textwrap.dedent(text))

    def publish(self, amount: float, *days: str, table: str = "raw") -> None:
        """Have somebody publish the orders of some days, one order a day and tenth."""
        frame = pl.DataFrame(
            {
                "id": [f"{day}-{n}" for day in days for n in range(10)],
                "ds": [day for day in days for _ in range(10)],
                "amount": [amount + n for _ in days for n in range(10)],
                "at": [f"{day}T0{n}:00:00" for day in days for n in range(10)],
            }
        )
        uri = self.store.table_uri(table)
        quoted = ", ".join(f"'{day}'" for day in days)
        there = self.store.latest_version(table) is not None
        options = {"predicate": f"ds IN ({quoted})"} if there else {"partition_by": ["ds"]}
        frame.write_delta(uri, mode="overwrite", delta_write_options=options)

    def validate(self, dag: str = "checks", **more: Any) -> ValidateOperator:
        given = {"table": "raw", "suite": "suite.json", "partitions": "2013-01-01", **more}
        with DAG(dag):
            return ValidateOperator(task_id="check", code=str(self.code), compute=self.compute, **given)

    def features(self, dag: str = "builds", **more: Any) -> FeaturesOperator:
        given = {"partitions": "2013-01-01..2013-01-02", "features": "shop:SET", "labels": False, **more}
        with DAG(dag):
            return FeaturesOperator(
                task_id="rows", tables=["raw"], publish="rows", code=str(self.code),
                compute=self.compute, **given,
            )  # fmt: skip

    def ingest(self, source: Path, dag: str = "loads", **more: Any) -> IngestOperator:
        schema = Schema((Column("id", "int64"), Column("ds", "string")))
        given = {"publish": Table("loaded"), "partitions": "2013-01-01", **more}
        with DAG(dag):
            return IngestOperator(
                task_id="load", source=str(source), schema=schema, code=str(self.code), compute=self.compute, **given,
            )  # fmt: skip


class Pipeline:
    """train, evaluate, promote, predict, as tasks of one DAG."""

    def __init__(self, world: Any, model: str, **train: Any) -> None:
        self.compute, self.model = HereCompute(), model
        given: dict[str, Any] = {
            "function": "delay_models:linear", "partitions": "2013-01-01..2013-01-02", **train,
        }  # fmt: skip
        common: dict[str, Any] = {"code": str(world.code), "compute": self.compute}
        with DAG(f"pipeline_{model}"):
            self.train = TrainOperator(task_id="train", table="rows", model=model, **given, **common)
            self.evaluate = EvaluateOperator(
                task_id="evaluate", candidate=self.train.output, table="rows",
                partitions="2013-01-03..2013-01-04", gates=[Gate("roc_auc", at_least=0.5)], resamples=20, **common,
            )  # fmt: skip
            self.promote = PromoteOperator(task_id="promote", verdict=self.evaluate.output, **common)
            self.predict = PredictOperator(
                task_id="predict", model=f"{model}@champion", table="rows", publish="scores",
                partitions="2013-01-04", **common,
            )  # fmt: skip

    def run(self, run_id: str) -> dict[str, dict[str, Any]]:
        outputs: dict[str, dict[str, Any]] = {}
        for task in (self.train, self.evaluate, self.promote, self.predict):
            outputs[task.task_id] = run(task, run_id, outputs=outputs)
        return outputs
