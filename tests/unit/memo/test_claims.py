"""Of several runs that want the same work at once one computes it, whatever becomes of that one."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.execution_time import task_runner
from memo_world import Shop, run, told_by, waits

from airflow_ml_provider.contract.errors import UserCodeError
from airflow_ml_provider.contract.memo import Memo
from airflow_ml_provider.contract.store import Store

HERE = Path(__file__).parent
# A try in a process of its own, whose step tells by a file that it computes, and goes on when it may.
TRY = """
import sys, time
from pathlib import Path
sys.path[:0] = {path!r}
from memo_world import Shop, to_the_end
from airflow_ml_provider.contract.store import Store

folder, run_id = Path({folder!r}), sys.argv[1]

def computing(launch):
    (folder / f"computes-{{run_id}}").touch()
    while not (folder / "go").exists():
        time.sleep(0.05)

shop = Shop(Store({store!r}), folder / "code")
shop.compute.before.append(computing)
print("decision:", to_the_end(shop.features(), run_id)["cache"]["decision"], flush=True)
"""


def started(shop: Shop, folder: Path, run_id: str) -> subprocess.Popen[str]:
    program = TRY.format(path=[str(HERE), str(HERE.parents[1])], folder=str(folder), store=shop.store.uri)
    return subprocess.Popen(
        [sys.executable, "-c", program, run_id], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=HERE.parents[2],
    )  # fmt: skip


def until(what: Any, seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def claims(shop: Shop) -> list[str]:
    return sorted(path for path in shop.store.paths("memo/steps") if "/claim-" in path)


class Airflow:
    """What Airflow says of task instances, to a task as to a trigger."""

    def __init__(self) -> None:
        self.states: dict[str, str | None] = {}

    def send(self, message: Any) -> Any:
        [run_id], [task_id] = message.run_ids, message.task_ids
        known = {task_id: self.states[run_id]} if run_id in self.states else {}
        return SimpleNamespace(task_states={run_id: known})


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Airflow:
    found = Airflow()
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", found, raising=False)
    return found


def claimed_by(shop: Shop, task: Any, run_id: str) -> None:
    """A run that has claimed its work, and whose process is gone."""

    class Gone(BaseException):
        pass

    def die(_: Any) -> None:
        raise Gone

    shop.compute.before.append(die)
    with pytest.raises(Gone):
        run(task, run_id)
    shop.compute.before.clear()
    shop.compute.launches.clear()


def test_two_runs_in_processes_of_their_own_compute_it_once(shop: Shop, tmp_path: Path) -> None:
    tries = [started(shop, tmp_path, "run_a"), started(shop, tmp_path, "run_b")]
    try:
        until(lambda: list(tmp_path.glob("computes-*")) or any(each.poll() for each in tries))
        (tmp_path / "go").touch()
        said = [each.communicate(timeout=200)[0] for each in tries]
    finally:
        for each in tries:
            each.kill()
    decisions = sorted(line for text in said for line in text.splitlines() if line.startswith("decision"))
    assert decisions == ["decision: hit", "decision: miss"], said
    assert len(list(tmp_path.glob("computes-*"))) == 1
    assert len(claims(shop)) == 1
    assert shop.store.latest_version("rows") == 1


def test_who_comes_while_it_is_computed_waits_without_a_slot_and_uses_the_result(
    shop: Shop, airflow: Airflow
) -> None:
    task, triggers = shop.features(), []
    airflow.states["run_a"] = "running"
    shop.compute.before.append(lambda _: triggers.append(waits(task, "run_b")))
    run(task, "run_a")
    event = told_by(triggers[0])
    assert event == {"claim": 1, "status": "look"}
    assert run(task, "run_b", event=event)["cache"]["made_by"]["run_id"] == "run_a"
    assert len(shop.compute.launches) == 1


@pytest.mark.parametrize("state", ["failed", "up_for_retry", "removed", "skipped", "success", None])
def test_the_work_of_a_run_that_was_killed_is_taken_over_at_once(
    shop: Shop, airflow: Airflow, state: str | None
) -> None:
    task = shop.features()
    claimed_by(shop, task, "run_a")
    airflow.states["run_a"] = state
    output = run(task, "run_b")
    assert output["cache"]["decision"] == "miss"
    assert output["cache"]["why"] == "run run_a of builds, task rows had begun it, and ended without a result"
    assert len(claims(shop)) == 2


def test_a_run_that_airflow_has_no_more_is_not_waited_for(shop: Shop, airflow: Airflow) -> None:
    task = shop.features()
    claimed_by(shop, task, "run_a")
    assert run(task, "run_b")["cache"]["decision"] == "miss"


def test_a_run_that_is_killed_while_others_wait_is_noticed_by_the_trigger(
    shop: Shop, airflow: Airflow
) -> None:
    task = shop.features()
    claimed_by(shop, task, "run_a")
    airflow.states["run_a"] = "running"
    trigger = waits(task, "run_b")
    airflow.states["run_a"] = "failed"
    event = told_by(trigger)
    assert event["status"] == "ended"
    assert run(task, "run_b", event=event)["status"] == "success"


def test_the_next_try_of_the_run_that_was_killed_goes_on_with_its_own_claim(
    shop: Shop, airflow: Airflow
) -> None:
    task = shop.features()
    claimed_by(shop, task, "run_a")
    airflow.states["run_a"] = "running"
    assert run(task, "run_a", try_number=2)["cache"]["decision"] == "miss"
    assert len(claims(shop)) == 1


def test_a_retry_waits_for_whoever_has_taken_its_work_over(shop: Shop, airflow: Airflow) -> None:
    task = shop.features()
    claimed_by(shop, task, "run_a")
    airflow.states |= {"run_a": "up_for_retry", "run_b": "running"}
    triggers: list[Any] = []
    shop.compute.before.append(lambda _: triggers.append(waits(task, "run_a", try_number=2)))
    run(task, "run_b")
    assert run(task, "run_a", event=told_by(triggers[0]))["cache"]["made_by"]["run_id"] == "run_b"


def test_the_work_of_a_run_that_failed_is_done_by_who_has_waited(shop: Shop, airflow: Airflow) -> None:
    shop.write("broken", "raise ValueError('broken')")
    task, triggers = shop.features(features="broken:SET"), []
    airflow.states["run_a"] = "running"
    shop.compute.before.append(lambda _: triggers.append(waits(task, "run_b")))
    with pytest.raises(UserCodeError):
        run(task, "run_a")
    shop.compute.before.clear()
    event = told_by(triggers[0])
    assert event["status"] == "look"
    with pytest.raises(UserCodeError):
        run(task, "run_b", event=event)
    assert len(shop.compute.launches) == 2


@pytest.mark.parametrize("state", ["queued", "scheduled", "nobody answers"])
def test_who_was_not_seen_at_work_for_long_is_not_waited_for_any_longer(
    shop: Shop, airflow: Airflow, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = shop.features()
    claimed_by(shop, task, "run_a")
    if state == "nobody answers":
        monkeypatch.delattr(task_runner, "SUPERVISOR_COMMS")
    else:
        airflow.states["run_a"] = state
    event = told_by(waits(task, "run_b"), patience=0.3)
    assert event["status"] == "late"
    why = run(task, "run_b", event=event)["cache"]["why"]
    assert why.endswith("had begun it, and was not seen at work for a while")


def test_a_claim_that_cannot_be_read_is_unknown_and_nobody_computes(shop: Shop) -> None:
    from airflow_ml_provider.contract.errors import TransientError

    task = shop.features()
    run(task, "run_a")
    [path] = claims(shop)
    shop.store.write(path, b"{half a docu")
    with pytest.raises(TransientError, match="it is unknown who computes this step"):
        run(task, "run_b")
    assert len(shop.compute.launches) == 1


def test_of_many_that_claim_a_number_at_once_one_gets_it(deployment: Store) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from airflow_ml_provider.contract.documents import RunOf
    from airflow_ml_provider.contract.memo import Claim

    memo = Memo(deployment, "f" * 64)
    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(lambda n: memo.claim(1, Claim(f"step-{n}", RunOf(), "now")), range(64)))
    assert got.count(True) == 1
    assert memo.attempts()[0].claim.step_key == f"step-{got.index(True)}"


def test_a_result_that_its_run_could_not_note_is_found_where_the_step_left_it(
    shop: Shop, airflow: Airflow
) -> None:
    task = shop.features()
    run(task, "run_a")
    for path in list(shop.store.paths("memo/steps")):
        if "/result-" in path:
            shop.store.delete(path)
    assert run(task, "run_b")["cache"]["decision"] == "hit"
