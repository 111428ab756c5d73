"""A fleet over the processes of one machine: what runs, what is kept, and what the next try does."""

from __future__ import annotations

import gc
import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from fleet_world import Fleet, numbers

from airflow_ml_provider.contract.errors import UserCodeError
from airflow_ml_provider.contract.scratch import VARIABLE as SCRATCH
from airflow_ml_provider.steps.__main__ import report
from airflow_ml_provider.steps.fleet_work import as_result

# Its import ends the process that imports it, the first time.
FRAGILE = """
import os
import signal
import sys
from pathlib import Path

NOTES = Path(__file__).parent / "starts"
with NOTES.open("ab", buffering=0) as file:
    file.write(b"once\\n")
if "--worker" in sys.argv and len(NOTES.read_text().splitlines()) == 1:
    os.kill(os.getpid(), signal.SIGKILL)


def alive(item):
    return {"y": item["x"]}
"""


def test_every_item_runs_once_and_several_at_a_time(fleet: Fleet) -> None:
    spec = fleet.spec("together", items=numbers(4))
    result = fleet.done("together", items=numbers(4))
    assert (result.summary["items"], result.summary["done"], result.summary["failed"]) == (4, 4, 0)
    assert result.metrics["items_done"] == 4
    assert result.metrics["compute_seconds"] > 0
    pids = {found["pid"] for found in fleet.results(spec)}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert len(fleet.note("pids")) == 4


def test_in_a_worker_garbage_is_looked_for_as_usual(fleet: Fleet) -> None:
    (fleet.code / "collecting.py").write_text(
        "import gc\n\ndef threshold(item):\n    return {'found': gc.get_threshold()[0]}\n"
    )
    spec = fleet.spec("collecting:threshold", items=numbers(2))
    fleet.done("collecting:threshold", items=numbers(2))
    assert [found["found"] for found in fleet.results(spec)] == [gc.get_threshold()[0]] * 2


def test_workers_which_are_killed_at_the_end_leave_nothing_on_local_disk(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv(SCRATCH, str(scratch))
    fleet.done("together", items=numbers(4))
    assert len(fleet.note("pids")) == 4
    assert list(scratch.iterdir()) == []


def test_an_item_gets_itself_its_parameters_and_a_seed_of_its_own(fleet: Fleet) -> None:
    given = {"items": [{"x": 1, "C": 5}, {"x": 2}], "params": {"C": 1, "depth": 3}, "seed": 7}
    fleet.done(**given)
    first, second = fleet.results(fleet.spec(**given))
    assert first["params"] == {"C": 5, "depth": 3, "x": 1}
    assert second["params"] == {"C": 1, "depth": 3, "x": 2}
    assert first["seed"] != second["seed"]


def test_the_same_items_and_code_give_the_same_results_in_any_order_and_any_number_of_processes(
    fleet: Fleet, tmp_path: Path
) -> None:
    fleet.done(items=numbers(6), parallelism=1)
    one = fleet.results(fleet.spec(items=numbers(6), parallelism=1))
    elsewhere = Fleet((tmp_path / "elsewhere").as_uri(), fleet.code)
    turned = {"items": numbers(6)[::-1], "items_per_index": 4, "parallelism": 2}
    elsewhere.done(**turned)
    assert elsewhere.results(elsewhere.spec(**turned))[::-1] == one
    other = Fleet((tmp_path / "other").as_uri(), fleet.code)
    other.done(items=numbers(6), seed=1)
    assert [found["drawn"] for found in other.results(other.spec(items=numbers(6), seed=1))] != [
        found["drawn"] for found in one
    ]


def test_a_failed_item_is_named_with_its_error_and_the_others_are_kept(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    (fleet.code / "bad").write_text("b")
    items = [{"x": "a"}, {"x": "b"}, {"x": "c"}]
    result = fleet.run("picky", items=items, publish={"name": "results", "partition_by": None})
    assert result.failure is not None
    assert result.failure.kind == "user"
    assert result.failure.message.startswith("1 of 3 items failed (0 may)")
    assert '{"x": "b"}: user error: work:picky raised ValueError: cannot do b' in result.failure.message
    assert "the results of the 2 finished items" in result.failure.message
    assert "clearing it runs only the 1 failed items" in result.failure.message
    assert 'raise ValueError(f"cannot do {item' in result.failure.traceback
    assert report(result) == 65
    assert "cannot do b" in capsys.readouterr().out
    states = {
        str(item["x"]): record.state for item, record in fleet.records(fleet.spec("picky", items=items))
    }
    assert states == {"a": "done", "b": "failed", "c": "done"}
    assert not (Path(fleet.store.removeprefix("file://")) / "tables").exists()


def test_a_retry_runs_only_what_is_missing(fleet: Fleet) -> None:
    (fleet.code / "bad").write_text("b")
    items = [{"x": "a"}, {"x": "b"}, {"x": "c"}]
    assert fleet.run("picky", items=items, items_per_index=2).status == "failed"
    (fleet.code / "bad").write_text("none")
    result = fleet.done("picky", items=items, items_per_index=2)
    assert fleet.calls() == {"a": 1, "b": 2, "c": 1}
    assert result.summary["done"] == 3
    _, (_, again), _ = fleet.records(fleet.spec("picky", items=items, items_per_index=2))
    assert (again.state, again.tries, again.error) == ("done", 2, None)


def test_an_item_whose_code_failed_as_often_as_allowed_waits_for_other_code(fleet: Fleet) -> None:
    (fleet.code / "bad").write_text("b")
    items = [{"x": "a"}, {"x": "b"}]
    for _ in range(3):
        result = fleet.run("picky", items=items, tries=2)
    assert fleet.calls() == {"a": 1, "b": 2}
    assert result.failure is not None
    assert "runs no item again; 1 failed 2 times" in result.failure.message
    assert "cannot do b" in result.failure.message
    fleet.run("picky", items=items, tries=3)
    assert fleet.calls()["b"] == 3
    (fleet.code / "bad").write_text("none")
    changed = {"items": items, "tries": 2, "parts": {"code": "changed"}}
    assert fleet.done("picky", **changed).summary["done"] == 2
    assert fleet.calls() == {"a": 2, "b": 4}


def test_a_worker_that_is_killed_is_replaced_and_nothing_is_doubled(fleet: Fleet) -> None:
    given = {"items": numbers(6), "items_per_index": 3, "params": {"kills": {"1": 1, "4": 1}}}
    result = fleet.done("deadly", **given)
    assert result.summary["done"] == 6
    # What the killed workers had finished was not done again.
    assert fleet.calls() == {"0": 1, "1": 2, "2": 1, "3": 1, "4": 2, "5": 1}
    assert [found["y"] for found in fleet.results(fleet.spec("deadly", **given))] == list(range(6))
    assert {document.state for document in fleet.documents(fleet.spec("deadly", **given))} == {"done"}


def test_a_worker_that_ends_before_it_is_ready_costs_no_item_a_try(fleet: Fleet) -> None:
    (fleet.code / "fragile.py").write_text(FRAGILE)
    given = {"items": numbers(2), "items_per_index": 2, "tries": 1}
    result = fleet.done("fragile:alive", **given)
    assert len(fleet.note("starts")) > 1
    assert result.summary["done"] == 2
    assert [record.tries for _, record in fleet.records(fleet.spec("fragile:alive", **given))] == [1, 1]


def test_a_fleet_whose_workers_never_begin_ends(fleet: Fleet) -> None:
    (fleet.code / "fragile.py").write_text(FRAGILE.replace("== 1", ">= 1"))
    result = fleet.run("fragile:alive", items=numbers(1), parallelism=1)
    assert result.failure is not None
    assert result.failure.kind == "infrastructure"
    assert "end before they begin" in result.failure.message


def test_an_item_that_kills_each_worker_fails_and_the_others_are_done(fleet: Fleet) -> None:
    given = {"items": numbers(4), "items_per_index": 4, "params": {"kills": {"1": 9}}, "parallelism": 1}
    result = fleet.run("deadly", **given)
    assert result.failure is not None
    assert result.failure.kind == "infrastructure"
    assert '{"x": 1}: infrastructure error: its process ended with it' in result.failure.message
    assert "a retry runs only the 1 failed items" in result.failure.message
    assert fleet.calls() == {"0": 1, "1": 2, "2": 1, "3": 1}
    result = fleet.run("deadly", **given)
    assert fleet.calls() == {"0": 1, "1": 4, "2": 1, "3": 1}


def test_a_step_killed_as_a_whole_takes_its_workers_along_and_its_rerun_does_the_rest(fleet: Fleet) -> None:
    given = {"items": numbers(6), "items_per_index": 3, "parallelism": 2}
    spec = fleet.spec("slow", **given)
    process = fleet.process(spec)
    until(lambda: len(set(fleet.note("pids"))) == 2 and len(fleet.note("calls")) == 4)
    # Its last second is not kept: what is finished now will have been.
    time.sleep(1.5)
    process.kill()
    process.communicate()
    workers = [int(pid) for pid in set(fleet.note("pids"))]
    until(lambda: not any(psutil.pid_exists(pid) for pid in workers))
    assert fleet.note("finished") == ["0", "1"]
    (fleet.code / "go").touch()
    assert fleet.done("slow", **given).summary["done"] == 6
    assert fleet.calls() == {"0": 1, "1": 1, "2": 2, "3": 2, "4": 1, "5": 1}
    assert sorted(fleet.note("finished")) == list("012345")


def test_a_session_ended_by_a_signal_leaves_no_worker(fleet: Fleet) -> None:
    process = fleet.process(fleet.spec("slow", items=numbers(4, 2)))
    until(lambda: len(set(fleet.note("pids"))) == 2)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    until(lambda: not any(psutil.pid_exists(int(pid)) for pid in set(fleet.note("pids"))))


def test_with_more_items_only_the_new_ones_run(fleet: Fleet) -> None:
    fleet.done(items=numbers(5), items_per_index=2)
    result = fleet.done(items=numbers(9), items_per_index=2)
    assert set(fleet.calls().values()) == {1}
    assert result.summary["done"] == 9


@pytest.mark.parametrize("items_per_index", [1, 3, 20])
def test_finished_items_are_taken_over_when_the_fleet_is_cut_otherwise(
    fleet: Fleet, items_per_index: int
) -> None:
    fleet.done(items=numbers(8), items_per_index=2)
    turned = [*numbers(2, 8), *numbers(7, 1)[::-1]]
    result = fleet.done(items=turned, items_per_index=items_per_index)
    assert set(fleet.calls().values()) == {1}
    assert result.summary["done"] == 9
    spec = fleet.spec(items=turned, items_per_index=items_per_index)
    assert [found["y"] for found in fleet.results(spec)] == [2 * item["x"] for item in turned]


@pytest.mark.parametrize(
    ("max_failed", "ends"), [(1, "failed"), (2, "success"), (0.25, "failed"), (0.5, "success")]
)
def test_some_items_may_fail(fleet: Fleet, max_failed: float, ends: str) -> None:
    (fleet.code / "bad").write_text("a,c")
    items = [{"x": "a"}, {"x": "b"}, {"x": "c"}, {"x": "d"}]
    result = fleet.run("picky", items=items, max_failed=max_failed, parallelism=1)
    assert result.status == ends
    if ends == "success":
        assert result.warnings == ("2 of 4 items failed, which may be; see the summary",)
        assert [line.partition(":")[0] for line in result.summary["failed items"]] == ['{"x"', '{"x"']


def test_with_many_failures_no_further_items_are_started(fleet: Fleet) -> None:
    items = [{"x": f"{number}"} for number in range(60)]
    (fleet.code / "bad").write_text(",".join(item["x"] for item in items))
    result = fleet.run("picky", items=items, parallelism=1)
    assert result.failure is not None
    assert result.failure.message.startswith("21 of 60 items failed (0 may), and 39 did not run")
    assert "runs only the 21 failed and 39 missing items" in result.failure.message
    assert "and 1 more" in result.failure.message


def test_items_that_are_no_items_are_refused(fleet: Fleet) -> None:
    for items, said in (
        ([{"x": 1, "y": 2}, {"x": 2}, {"y": 2, "x": 1}], "items 0 and 2 of a fleet are the same"),
        ([{"x": [1]}], "item 0 of a fleet has x=[1] (list)"),
        ([{}], "item 0 of a fleet is {}"),
    ):
        result = fleet.run(items=items)
        assert result.failure is not None
        assert result.failure.kind == "config"
        assert said in result.failure.message
    assert fleet.run(items=[]).reason == "there is nothing to do: the fleet has no items"


def test_code_that_cannot_be_loaded_is_one_error_and_not_one_an_item(fleet: Fleet) -> None:
    result = fleet.run("dubble", items=numbers(3))
    assert result.failure is not None
    assert result.failure.kind == "user"
    assert "did you mean 'double'" in result.failure.message
    assert not fleet.ledger(fleet.spec("dubble", items=numbers(3))).entries()


def test_a_result_must_be_a_small_mapping_of_json_values(fleet: Fleet) -> None:
    result = fleet.run("odd", items=numbers(2))
    assert result.failure is not None
    assert '{"x": 0}: user error: work:odd gave int, not a mapping of results' in result.failure.message
    _, (_, good) = fleet.records(fleet.spec("odd", items=numbers(2)))
    assert good.result == {"item": {"x": 1}, "wide": [1, 2], "nan": None}


def test_a_function_that_ends_the_process_has_failed(fleet: Fleet) -> None:
    result = fleet.run("leave", items=numbers(1))
    assert result.failure is not None
    assert "user error: work:leave ended the process: sys.exit(3)" in result.failure.message


def until(condition, seconds: float = 60) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    assert condition()


def test_a_result_with_an_object_in_it_is_the_users_mistake() -> None:
    with pytest.raises(UserCodeError, match=r"gave a result that is no JSON: it holds a builtins\.object"):
        as_result({"model": object()}, "work:gives")
