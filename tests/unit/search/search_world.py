"""A search over a store on disk, run by hand: real workers and a real ledger, or all of it in this process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from airflow_ml_provider.contract.documents import Code, RunOf, StepResult, StepSpec, Tracking, read_spec
from airflow_ml_provider.contract.search import Choices, Dimension, Floats, Integers
from airflow_ml_provider.contract.search_ledger import SearchLedger, TrialRecord
from airflow_ml_provider.contract.store import Store

KEY = "a-search"
SPACE: dict[str, Dimension] = {
    "x": Floats(0, 1), "leaves": Integers(2, 512, log=True), "kind": Choices(["flat", "steep", None]),
}  # fmt: skip
# What the functions do is written down beside them, from whatever process; a line is one append.
OBJECTIVES = """
    import math
    import os
    import signal
    import time
    from pathlib import Path

    NOTES = Path(__file__).parent

    def note(name, line):
        with (NOTES / name).open("a") as out:
            out.write(f"{line}\\n")

    def loss(params):
        return (params["x"] - 0.3) ** 2 + abs(math.log(params["leaves"] / 40)) / 10 + (params["kind"] == "flat") / 5

    def bowl(params):
        return {"loss": loss(params), "x": params["x"]}

    def gated(params, trial):
        '''Waits at trials that the file "gate" does not let pass.'''
        note("calls", trial.number)
        while trial.number >= int((NOTES / "gate").read_text()):
            time.sleep(0.02)
        return loss(params)

    def stepwise(params, trial):
        '''Comes down to its loss in twenty steps.'''
        for step in range(1, 21):
            note("steps", trial.number)
            trial.report(loss(params) + 1 / step, step)
            if trial.should_stop():
                return None
        return {"loss": loss(params)}

    def picky(params):
        note("calls", params["x"])
        if params["x"] > 0.5:
            raise ValueError(f"cannot do {params['x']:.2f}")
        return {"loss": params["x"]}

    def broken(params):
        note("calls", params["x"])
        raise ValueError("never works")

    def elsewhere(params):
        note("calls", params["x"])
        return {"accuracy": 0.5}

    def odd(params):
        return {"loss": float("nan")}

    def deadly(params, trial):
        '''Kills its process the first time that it comes to trial 3, and each time at trial 5.'''
        note("calls", trial.number)
        before = (NOTES / "calls").read_text().splitlines().count(str(trial.number))
        if trial.number == 5 or (trial.number == 3 and before == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return loss(params)

    def sampler(seed):
        import optuna
        return optuna.samplers.RandomSampler(seed=seed)
"""
PROCESS = [sys.executable, "-P", "-m", "airflow_ml_provider.steps", "search", "--spec"]


@dataclass
class Search:
    """A search as somebody runs it by hand.

    :param store: URI of the store.
    :param code: folder of the user's modules; the module ``objectives`` is there.
    """

    store: str
    code: Path
    mlflow: str = ""

    def spec(self, function: str = "bowl", trials: int = 20, **given: Any) -> StepSpec:
        """The spec of a search; what is no field of a spec is an argument."""
        fields = {name: given.pop(name) for name in ("seed", "parts") if name in given}
        arguments: dict[str, Any] = msgspec.to_builtins(
            {
                "function": function if ":" in function else f"objectives:{function}",
                "space": SPACE, "metric": "-loss", "trials": trials, "sampler": "random", **given,
            }
        )  # fmt: skip
        spec = StepSpec(
            verb="search", store=self.store, arguments=arguments, step_key=KEY,
            code=Code(roots=(str(self.code),), digest="c0de" * 16),
            tracking=Tracking(uri=self.mlflow, experiment="searches"),
            run=RunOf(dag_id="a_dag", task_id="search", run_id="a_run", triggered_by="ada"), **fields,
        )  # fmt: skip
        return read_spec(spec.encode(), source="the test")

    def run(self, function: str = "bowl", trials: int = 20, **given: Any) -> StepResult:
        """Run a search; the step in this process, its workers in their own. Failures are given back, too."""
        from airflow_ml_provider.steps.runner import run_step

        return run_step(self.spec(function, trials, **given))

    def done(self, function: str = "bowl", trials: int = 20, **given: Any) -> StepResult:
        """Run a search that must end well."""
        result = self.run(function, trials, **given)
        assert result.status == "success", result.failure
        return result

    def failed(self, function: str = "bowl", trials: int = 20, **given: Any) -> str:
        """Run a search that must fail; gives the message."""
        result = self.run(function, trials, **given)
        assert result.failure is not None
        return result.failure.message

    def process(self, spec: StepSpec, *options: str) -> subprocess.Popen[str]:
        """Start a step, or a part of it, as a compute does."""
        path = self.code.parent / "spec.json"
        path.write_bytes(spec.encode())
        return subprocess.Popen(
            [*PROCESS, str(path), *options], env=dict(os.environ), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def note(self, name: str) -> list[str]:
        """What the functions noted."""
        path = self.code / name
        return path.read_text().splitlines() if path.exists() else []

    def calls(self) -> Counter[str]:
        """How often each trial was run."""
        return Counter(self.note("calls"))

    def ledger(self, spec: StepSpec) -> SearchLedger:
        return SearchLedger.of(Store(self.store), spec)

    def records(self, spec: StepSpec) -> dict[int, TrialRecord]:
        """What came of each trial."""
        return dict(sorted(self.ledger(spec).records().items()))

    def params(self, spec: StepSpec) -> list[dict[str, Any]]:
        """What was asked for, in order."""
        return [params for each in self.ledger(spec).rounds() for params in each.trials]
