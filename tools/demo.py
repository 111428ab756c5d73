"""`make demo`: the flights pipeline, whole, through a real Airflow, a real MLflow and a real PostgreSQL.

Ingests half a year, trains and promotes a champion, shows a challenger that is rejected, backfills ten days of
predictions with Airflow's own backfill, monitors a calm and a drifted day, lets drift retrain and promote, and
rolls that back. Every run has an id made from the DAGs' code and its inputs, so a second `make demo` finds what
is done and does only what is missing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from airflow_api import AirflowApi, AirflowError
from airflow_ml_provider.contract.identity import digest
from deployment import DEFAULT_DAGS_FOLDER, DEFAULT_HOME, Deployment, DeploymentError

INGESTED = "2013-01-01..2013-06-30"
FIRST_DAY, LAST_DAY = "2013-06-01", "2013-06-10"
# The days that are predicted before drift has changed the champion; the others come after.
LAST_DAY_BEFORE = "2013-06-07"
# A challenger that has seen three days is no match for one that has seen four months.
TOO_LITTLE = {"train_until": "2013-01-03"}
REGRET = "the demo regrets the retrained champion"
# The second is the day of Tropical Storm Andrea.
CALM_DAY, DRIFTED_DAY = "2013-06-05", "2013-06-07"
DAGS = {"flights_ingest", "flights_train", "flights_predict", "flights_monitor", "flights_rollback"}
# The facts of a step's summary that fit on its line.
FACTS = {
    "flights": ("rows", "rejected"),
    "weather": ("rows", "rejected"),
    "planes": ("rows", "rejected"),
    "validate": ("verdict", "expectations", "rows"),
    "features": ("rows", "features", "proof"),
    "train": ("model", "rows", "features"),
    "evaluate": ("decision", "roc_auc", "champion"),
    "promote": ("champion", "replaced", "why"),
    "predict": ("rows", "mean score", "model"),
    "monitor": ("verdict", "score PSI", "drifted features", "ROC AUC"),
    "rollback": ("champion", "replaced", "why", "affected"),
    "recompute": (),
}


class Demo:
    """The story, told as it happens.

    :param patience: seconds that a run may take; steps elsewhere may take longer than on this machine.
    """

    def __init__(self, deployment: Deployment, *, patience: float = 240) -> None:
        self.deployment = deployment
        self.patience = patience
        self.api = AirflowApi(deployment.airflow_url)
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.outputs: dict[tuple[str, str], dict[str, Any]] = {}
        code = sorted(DEFAULT_DAGS_FOLDER.rglob("*.py"))
        self.mark = digest(*(path.read_bytes() for path in code))[:8]

    def play(self) -> None:
        """Run everything that has not been run yet."""
        self.api.wait_for_dags(DAGS)
        say("\n1  Ingest: raw files -> tables, every row typed and checked")
        self.follow("flights_ingest", self.start("flights_ingest", {"days": INGESTED}))
        say("\n2  Train: validate -> features -> train -> evaluate -> promote")
        self.follow("flights_train", self.start("flights_train"))
        small = self.start("flights_train", TOO_LITTLE, name="too-little")
        say(f"\n3  Predict: Airflow backfills {FIRST_DAY} .. {LAST_DAY_BEFORE}, a partition a run")
        self.predict(FIRST_DAY, LAST_DAY_BEFORE)
        say("\n4  Meanwhile: a challenger that was trained on three days only")
        self.follow("flights_train", small, name="small")
        say("\n5  Monitor: a calm day and a drifted one")
        watched = {day: self.start("flights_monitor", partition_key=day) for day in (CALM_DAY, DRIFTED_DAY)}
        for day, run_id in watched.items():
            self.follow("flights_monitor", run_id, name=day)
        self.retraining()
        after = days(LAST_DAY_BEFORE, LAST_DAY)[1]
        say(f"\n7  Predict: {after} .. {LAST_DAY}, by the champion that there is now")
        self.predict(after, LAST_DAY)
        say(
            "\n8  Roll back: the champion before it is champion again, and what it predicted is computed again"
        )
        back = self.start("flights_rollback", {"reason": REGRET, "recompute": True})
        self.follow("flights_rollback", back, name="back")

    def start(
        self,
        dag_id: str,
        conf: dict[str, Any] | None = None,
        *,
        partition_key: str | None = None,
        name: str = "all",
    ) -> str:
        """Start the demo's run of a DAG, or find it; a failed one is run again where it failed."""
        run_id = f"demo__{self.mark}__{partition_key or name}"
        self.api.pause(dag_id, False)
        run = self.api.trigger(dag_id, run_id, conf, partition_key)
        if run["state"] == "failed":
            self.api.call(
                "POST", f"/dags/{dag_id}/clearTaskInstances",
                json={"dag_run_id": run_id, "only_failed": True, "dry_run": False, "reset_dag_runs": True},
            )  # fmt: skip
        return run_id

    def follow(self, dag_id: str, run_id: str, *, name: str = "") -> None:
        """Tell of each task as it ends."""
        for task in self.api.finished_tasks(dag_id, run_id, self.patience, waiting=tick):
            self.tell(dag_id, run_id, task, name)
        state = (self.api.run(dag_id, run_id) or {}).get("state")
        if state != "success":
            raise AirflowError(f"{dag_id}, run {run_id}, ended as {state}")

    def tell(self, dag_id: str, run_id: str, task: dict[str, Any], name: str = "") -> None:
        """One line for a task that has ended; a failed one with the end of its log."""
        task_id, state = task["task_id"], task["state"]
        took = float(task["duration"] or 0)
        self.seconds[f"{dag_id}.{task_id}"].append(took)
        if state in ("failed", "upstream_failed"):
            if state == "failed":
                log = self.api.log(dag_id, run_id, task_id, task["try_number"])
                say(f"   {task_id} failed; the end of its log:\n" + "\n".join(log.splitlines()[-25:]))
            return
        found = self.api.output(dag_id, run_id, task_id)
        output = found if isinstance(found, dict) else {}
        self.outputs[(f"{dag_id}.{task_id}", name)] = output
        facts = brief(task_id, output)
        mark = "-" if state == "skipped" else "ok"
        say(f"   {mark:2} {(name + ' ' + task_id).strip():22} {took:5.1f} s  {facts}")

    def predict(self, first: str, last: str) -> None:
        """Backfill the days that have no successful run of this code yet."""
        dag_id = "flights_predict"
        self.api.pause(dag_id, False)
        if len(self.predicted(first, last)) < len(days(first, last)):
            # Runs of other code are replaced, so that the predictions are those of the DAGs as they are now.
            backfill = self.api.backfill(
                dag_id,
                first,
                last,
                max_active_runs=3,
                reprocess_behavior="completed",
                dag_run_conf={"day": "", "demo": self.mark},
            )
            told: set[str] = set()
            end = time.monotonic() + self.patience
            while not self.api.backfill_done(backfill):
                for day, run_id in self.predicted(first, last).items():
                    if day not in told:
                        told.add(day)
                        self.tell_day(day, run_id)
                if time.monotonic() > end:
                    raise AirflowError(f"the backfill of {dag_id} has not ended after {self.patience:.0f} s")
                tick()
                time.sleep(1)
        for day, run_id in sorted(self.predicted(first, last).items()):
            if ("flights_predict.predict", day) not in self.outputs:
                self.tell_day(day, run_id)
        if missing := sorted(set(days(first, last)) - set(self.predicted(first, last))):
            raise AirflowError(f"days without predictions: {', '.join(missing)}")

    def predicted(self, first: str, last: str) -> dict[str, str]:
        """Day to the run that predicted it with the DAGs as they are now."""
        wanted = set(days(first, last))
        return {
            run["partition_key"]: run["dag_run_id"]
            for run in self.api.runs("flights_predict", state="success")
            if run["partition_key"] in wanted and run["conf"].get("demo") == self.mark
        }

    def tell_day(self, day: str, run_id: str) -> None:
        """A day's features and predictions, in one line."""
        for task in self.api.tasks("flights_predict", run_id):
            took = float(task["duration"] or 0)
            self.seconds[f"flights_predict.{task['task_id']}"].append(took)
        output = self.api.output("flights_predict", run_id, "predict") or {}
        self.outputs[("flights_predict.predict", day)] = output
        facts = brief("predict", output)
        say(f"   ok {day:22}          {facts}")

    def retraining(self) -> None:
        """The retraining that drift has started: wait for it, since it is part of the story."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            runs = [r for r in self.api.runs("flights_train") if r["run_type"] == "asset_triggered"]
            if runs:
                say(f"\n6  Drift of {DRIFTED_DAY} has triggered flights_train")
                self.follow("flights_train", runs[0]["dag_run_id"], name="again")
                return
            time.sleep(0.5)
        raise AirflowError(f"the drift of {DRIFTED_DAY} triggered no retraining within 20 s")

    def summary(self) -> Iterator[str]:
        """What was done, for a person."""
        yield from ingested(self.outputs)
        yield from champion(self.outputs)
        days_done = [o for (task, _), o in self.outputs.items() if task == "flights_predict.predict" and o]
        rows = sum(o["table"]["rows"] for o in days_done)
        yield f"Predictions  {len(days_done)} partitions, {rows:,} flights, table flight_predictions"
        for day in (CALM_DAY, DRIFTED_DAY):
            verdict = self.outputs[("flights_monitor.monitor", day)].get("verdict") or {}
            said = "drifted: " + "; ".join(verdict["reasons"]) if verdict.get("drifted") else "calm"
            yield f"Monitoring   {day}: {said}"
        yield ""
        yield "Seconds per step (median over its runs)"
        for task, took in self.seconds.items():
            yield f"  {task:28} {sorted(took)[len(took) // 2]:6.1f}   x {len(took)}"
        yield ""
        yield f"Tables   {self.deployment.home / 'store' / 'tables'}"
        for title, key in (("Evaluation", "flights_train.evaluate"), ("Data Docs", "flights_train.validate")):
            links = self.outputs.get((key, ""), {}).get("links", {})
            if url := links.get("Report") or links.get("Data Docs"):
                yield f"{title}   {url}"
        url = self.outputs[("flights_monitor.monitor", DRIFTED_DAY)].get("links", {}).get("Report")
        if url:
            yield f"Drift report   {url}"


def ingested(outputs: dict[tuple[str, str], dict[str, Any]]) -> Iterator[str]:
    """Rows ingested and rejected, a line a table."""
    for table in ("flights", "weather", "planes"):
        output = outputs.get((f"flights_ingest.{table}", ""), {})
        summary = output.get("summary", {})
        bad = summary.get("rejected", 0)
        where = f", kept in {output['tables']['quarantine']['name']}" if output.get("tables") and bad else ""
        yield f"Ingested     {table:8} {summary.get('rows', 0):>9,} rows, {bad} rejected{where}"


def champion(outputs: dict[tuple[str, str], dict[str, Any]]) -> Iterator[str]:
    """The champion and its metrics with their 95 % intervals, and what became of the others."""
    back = outputs[("flights_rollback.rollback", "back")]
    model = back.get("model") or {}
    yield f"Champion     {model.get('name')} version {model.get('version')}"
    for name, metric in outputs[("flights_train.evaluate", "")]["verdict"]["metrics"].items():
        yield f"             {name:20} {metric['value']:.4f}  [{metric['low']:.4f}, {metric['high']:.4f}]"
    for name in ("small", "again"):
        verdict = outputs[("flights_train.evaluate", name)]["verdict"]
        failed = [gate["reason"] for gate in verdict["gates"] if not gate["passed"]]
        said = f"rejected: {failed[0]}" if failed else "promoted"
        yield f"Challenger   version {verdict['model']['version']} was {said}"
    moved = back.get("verdict") or {}
    why = back.get("summary", {}).get("why")
    yield f"Rolled back  from version {moved.get('replaced')}: {why}"
    again = outputs.get(("flights_rollback.predict", "back"), {}).get("table") or {}
    yield f"             predicted again in one commit: {again.get('partitions', 'nothing')}"


def days(first: str, last: str) -> list[str]:
    """The days of a range."""
    from airflow_ml_provider.contract.partitions import parse_partitions

    return list(parse_partitions(f"{first}..{last}").values)


def brief(task_id: str, output: dict[str, Any]) -> str:
    """The facts of a step's summary that matter most."""
    summary = output.get("summary", {})
    return ", ".join(f"{name} {pretty(summary[name])}" for name in FACTS[task_id] if name in summary)


def pretty(value: Any) -> str:
    """A value as people write it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def say(line: str) -> None:
    """A line of the story."""
    print(line, flush=True)


def tick() -> None:
    """A sign of life while waiting, where somebody looks."""
    if sys.stdout.isatty():
        print(time.strftime("   ... %H:%M:%S\r"), end="", flush=True)


def main() -> int:
    """Run the demo; 0 when all of it worked."""
    parser = argparse.ArgumentParser(description="Run the flights pipeline through a local Airflow.")
    parser.add_argument("--home", type=Path, default=DEFAULT_HOME, help="default: %(default)s")
    options = parser.parse_args()
    began = time.monotonic()
    say("0  Start PostgreSQL, MLflow and Airflow")
    try:
        with Deployment(options.home, say=lambda line: say(f"   {line}")) as deployment:
            demo = Demo(deployment)
            demo.play()
            say("\n" + "=" * 96)
            for line in demo.summary():
                say(line)
            kept = not deployment.started_here
            urls = f"Airflow {deployment.airflow_url}   MLflow {deployment.mlflow_url}"
            say(f"{'Browse' if kept else '`make up`, then browse'}   {urls}")
            say(f"Done in {time.monotonic() - began:.0f} s")
    except (AirflowError, DeploymentError) as error:
        say(
            f"\nThe demo stopped: {error}\n"
            "What was published is kept; `make demo` again continues from there."
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
