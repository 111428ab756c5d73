"""A fleet of a user's functions over a store on disk, run by hand: real workers, a real ledger."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from deltalake import DeltaTable, write_deltalake

from airflow_ml_provider.contract.documents import Code, RunOf, StepResult, StepSpec, Tracking, read_spec
from airflow_ml_provider.contract.fleet_ledger import Ledger
from airflow_ml_provider.contract.fleets import IndexDocument, ItemRecord, PlanDocument
from airflow_ml_provider.contract.store import Store, local_path
from airflow_ml_provider.steps.fleet_collect import records

KEY = "a-fleet"
# What the functions do is written down beside them, from whatever process; a line is one append.
WORK = """
    import os
    import random
    import signal
    import time
    from pathlib import Path

    NOTES = Path(__file__).parent

    def note(name, text):
        with open(NOTES / name, "ab", buffering=0) as file:
            file.write(f"{text}\\n".encode())

    def lines(name):
        path = NOTES / name
        return path.read_text().splitlines() if path.exists() else []

    def double(item, params, seed):
        note("calls", item["x"])
        return {"y": 2 * item["x"], "drawn": random.random(), "seed": seed, "params": params}

    def together(item):
        '''Ends when two processes have come here.'''
        note("pids", os.getpid())
        end = time.monotonic() + 60
        while len(set(lines("pids"))) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        return {"pid": os.getpid()}

    def picky(item):
        note("calls", item["x"])
        if item["x"] in (NOTES / "bad").read_text().split(","):
            raise ValueError(f"cannot do {item['x']}")
        return {"y": item["x"]}

    def deadly(item, params):
        '''Kills its process with some items: each the number of times that params say.'''
        note("calls", item["x"])
        times = params["kills"].get(str(item["x"]), 0)
        if lines("calls").count(str(item["x"])) <= times:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"y": item["x"]}

    def slow(item):
        note("calls", item["x"])
        note("pids", os.getpid())
        while item["x"] >= 2 and not (NOTES / "go").exists():
            time.sleep(0.05)
        note("finished", item["x"])
        return {"y": item["x"]}

    def odd(item):
        return {"item": item, "wide": [1, 2], "nan": float("nan")} if item["x"] else 7

    def leave(item):
        raise SystemExit(3)
"""
PROCESS = [sys.executable, "-P", "-m", "airflow_ml_provider.steps", "fleet", "--spec"]


def numbers(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Items that are numbered."""
    return [{"x": number} for number in range(first, first + count)]


@dataclass
class Fleet:
    """A fleet as somebody runs it by hand.

    :param store: URI of the store.
    :param code: folder of the user's modules; the module ``work`` is there.
    """

    store: str
    code: Path
    mlflow: str = ""

    def spec(self, function: str = "double", **given: Any) -> StepSpec:
        """The spec of a fleet; what is no field of a spec is an argument."""
        fields = {name: given.pop(name) for name in ("seed", "parts") if name in given}
        arguments = {"function": function if ":" in function else f"work:{function}", **given}
        spec = StepSpec(
            verb="fleet", store=self.store, arguments=arguments, step_key=KEY,
            code=Code(roots=(str(self.code),), digest="c0de" * 16),
            tracking=Tracking(uri=self.mlflow, experiment="fleets"),
            run=RunOf(dag_id="a_dag", task_id="fleet", run_id="a_run", triggered_by="ada"), **fields,
        )  # fmt: skip
        return read_spec(spec.encode(), source="the test")

    def run(self, function: str = "double", **given: Any) -> StepResult:
        """Run a fleet; the step in this process, its workers in their own. Failures are given back, too."""
        from airflow_ml_provider.steps.runner import run_step

        return run_step(self.spec(function, **given))

    def done(self, function: str = "double", **given: Any) -> StepResult:
        """Run a fleet that must end well."""
        result = self.run(function, **given)
        assert result.status == "success", result.failure
        return result

    def process(
        self, spec: StepSpec, *options: str, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a step, or a part of it, as a compute does."""
        path = self.code.parent / "spec.json"
        path.write_bytes(spec.encode())
        return subprocess.Popen(
            [*PROCESS, str(path), *options], env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def part(self, spec: StepSpec, *options: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Run a step, or a part of it, to its end: exit code and output."""
        process = self.process(spec, *options, env=env)
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    def forget(self) -> None:
        """Remove the fleet's run from the store: its ledger, its models, its result."""
        shutil.rmtree(local_path(Store(self.store).run_uri(KEY)), ignore_errors=True)

    def note(self, name: str) -> list[str]:
        """What the functions noted."""
        path = self.code / name
        return path.read_text().splitlines() if path.exists() else []

    def calls(self) -> Counter[str]:
        """How often each item was run."""
        return Counter(self.note("calls"))

    def ledger(self, spec: StepSpec) -> Ledger:
        return Ledger.of(Store(self.store), spec)

    def plan(self, spec: StepSpec) -> PlanDocument:
        plan = self.ledger(spec).plan()
        assert plan is not None
        return plan

    def documents(self, spec: StepSpec) -> list[IndexDocument]:
        """All documents of the ledger by position, those of other plans too."""
        ledger = self.ledger(spec)
        paths = sorted(entry.path for entry in ledger.entries().values())
        return [document for document in ledger.read_all(paths) if document]

    def records(self, spec: StepSpec) -> list[tuple[dict[str, Any], ItemRecord]]:
        """The items of the newest plan, with what came of them."""
        ledger, plan = self.ledger(spec), self.plan(spec)
        return list(records(ledger, plan, ledger.items(plan.items_digest)))

    def results(self, spec: StepSpec) -> list[dict[str, Any]]:
        """What the items gave, in their order."""
        return [record.result for _, record in self.records(spec)]

    def publish(self, name: str, frame: pl.DataFrame, **options: Any) -> None:
        """A table to read."""
        write_deltalake(Store(self.store).table_uri(name), frame, **options)

    def table(self, name: str) -> pl.DataFrame:
        """A published table."""
        return pl.scan_delta(DeltaTable(Store(self.store).table_uri(name))).collect()
