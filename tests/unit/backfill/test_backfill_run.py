"""A plan being carried out, against a small real server: bounded, stopped in time, gone on with, never doubled."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_airflow import SmallAirflow

from airflow_ml_provider.cli import main
from airflow_ml_provider.cli.airflow_client import AirflowClient
from airflow_ml_provider.cli.backfill_document import Choice
from airflow_ml_provider.cli.backfill_plan import make_plan
from airflow_ml_provider.cli.backfill_report import Events, Reconciliation, report_markdown
from airflow_ml_provider.cli.backfill_run import Backfill, Limits
from airflow_ml_provider.contract.store import Store

DAYS = [f"2013-06-{n:02}" for n in range(1, 9)]
Command = Callable[..., tuple[int, str]]


@pytest.fixture
def airflow() -> Iterator[SmallAirflow]:
    server = SmallAirflow()
    yield server
    server.close()


@pytest.fixture
def backfill(airflow: SmallAirflow, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    def call(action: str, *words: str) -> tuple[int, str]:
        where = ("--url", airflow.url, "--store", str(tmp_path), "--patience", "20s")
        more = ("--yes", "--poll", "0.01") if action == "run" else ()
        days = () if action == "status" else ("--from", DAYS[0], "--to", DAYS[-1])
        code = main(["backfill", action, "d", *days, *where, *more, *words])
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    return call


def of_plan(airflow: SmallAirflow) -> list[str]:
    return sorted(
        run["partition_key"] for name, run in airflow.runs.items() if name.startswith("ml_backfill__")
    )


def test_no_more_runs_are_going_at_once_than_asked_for(airflow: SmallAirflow, backfill: Command) -> None:
    airflow.put("scheduled__3", partition_key=DAYS[2])
    code, told = backfill("run", "--wave", "3", "--reason", "the summer")
    assert code == 0, told
    assert airflow.most_at_once == 3
    assert of_plan(airflow) == [day for day in DAYS if day != DAYS[2]]
    assert all(post["note"].endswith(": the summer") for post in airflow.posts)
    assert all(post["conf"]["reason"] == post["note"] for post in airflow.posts)
    assert "about 90 s (3 waves of 30 s, the median of 1 past run that took 30 s to 30 s)" in told
    assert "everything came out as planned" in told


def test_a_backfill_that_fails_too_often_stops_and_goes_on_in_the_same_runs(
    airflow: SmallAirflow, backfill: Command
) -> None:
    airflow.outcomes = {DAYS[0]: ["failed"], DAYS[1]: ["failed"]}
    code, told = backfill("run", "--wave", "1", "--max-failures", "2")
    assert code == 1
    assert "2 runs failed, so no further one is started (--max-failures 2)" in told
    assert of_plan(airflow) == DAYS[:2]
    assert f"{DAYS[0]}: failed, and missing now" in told

    assert "`run` goes on with the plan" in backfill("plan")[1]
    code, told = backfill("run", "--wave", "4")
    assert code == 1, "those that failed are not tried again unasked"
    assert of_plan(airflow) == DAYS
    code, told = backfill("run", "--retry-failed")
    assert code == 0, told
    assert len(airflow.posts) == len(DAYS)


def test_an_unfinished_backfill_is_planned_anew_when_asked(airflow: SmallAirflow, backfill: Command) -> None:
    airflow.outcomes = {DAYS[0]: ["failed"]}
    assert backfill("run")[0] == 1
    code, told = backfill("run", "--afresh")
    assert code == 0, told
    assert of_plan(airflow) == [DAYS[0], *DAYS]


def test_a_dag_that_is_paused_meanwhile_gets_no_further_runs(
    airflow: SmallAirflow, backfill: Command
) -> None:
    def pause(count: int) -> None:
        airflow.paused = count >= 3

    airflow.on_start = pause
    code, told = backfill("run", "--wave", "1")
    assert code == 1
    assert "the DAG d is paused" in told
    assert len(airflow.posts) == 3
    code, told = backfill("run")
    assert code == 64
    assert "nothing was started" in told
    assert len(airflow.posts) == 3
    airflow.paused, airflow.on_start = False, lambda count: None
    code, told = backfill("run")
    assert code == 0, told
    assert "going on with the plan" in told
    assert of_plan(airflow) == DAYS
    assert len(airflow.posts) == len(DAYS)


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C is heard, also where the tests were started in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_backfill_leaves_its_runs_and_goes_on_when_asked(
    airflow: SmallAirflow, backfill: Command, number: signal.Signals
) -> None:
    def interrupt(count: int) -> None:
        if count == 4:
            os.kill(os.getpid(), number)

    airflow.on_start = interrupt
    code, told = backfill("run", "--wave", "2")
    assert code == 130
    assert "The same command goes on from here" in told
    assert 4 <= len(airflow.runs) < len(DAYS)
    code, told = backfill("status")
    assert code == 0
    assert "not started" in told
    code, told = backfill("run", "--wave", "2")
    assert code == 0, told
    assert of_plan(airflow) == DAYS
    assert "8 done" in backfill("status")[1]


def test_an_answer_that_is_lost_starts_no_second_run(airflow: SmallAirflow, backfill: Command) -> None:
    airflow.lost = 2
    code, told = backfill("run")
    assert code == 0, told
    assert of_plan(airflow) == DAYS
    assert f"{DAYS[0]}: ml_backfill__" in told
    assert "was started before" in told


def test_two_of_a_plan_at_once_start_each_run_once(airflow: SmallAirflow, tmp_path: Path) -> None:
    store, choice = Store(tmp_path.as_uri()), Choice(dag_id="d", first=DAYS[0], last=DAYS[-1])
    plan = make_plan(AirflowClient(airflow.url), store, choice)
    twin = make_plan(AirflowClient(airflow.url), store, choice)
    both = [
        Backfill(AirflowClient(airflow.url), store, one, Limits(poll=0.01), lambda line: None)
        for one in (plan, twin)
    ]
    threads = [threading.Thread(target=one.carry_out) for one in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [item.progress for one in both for item in one.plan.items] == ["success"] * 16
    assert of_plan(airflow) == DAYS


def test_a_partition_that_another_run_works_on_is_left_to_it(
    airflow: SmallAirflow, backfill: Command
) -> None:
    airflow.put("manual__1", partition_key=DAYS[1], state="running", end_date=None)
    code, told = backfill("run", "--report", "/dev/null")
    assert code == 1
    assert f"{DAYS[1]}: left to the run manual__1" in told
    assert "left to another run: 1" in told
    assert DAYS[1] not in of_plan(airflow)


def test_a_finished_backfill_asked_for_again_has_nothing_to_do_until_something_is_missing(
    airflow: SmallAirflow, backfill: Command
) -> None:
    assert backfill("run")[0] == 0
    code, told = backfill("run")
    assert code == 0
    assert "there is nothing to run" in told
    first = [name for name in airflow.runs if name.endswith(DAYS[3])]
    del airflow.runs[first[0]]
    code, told = backfill("run")
    assert code == 0, told
    again = [name for name in airflow.runs if name.endswith(DAYS[3])]
    assert again != first
    assert of_plan(airflow) == DAYS


def test_a_run_of_a_date_that_is_taken_has_the_same_interval_a_second_later(tmp_path: Path) -> None:
    airflow = SmallAirflow("time")
    for day in DAYS:
        airflow.put(f"scheduled__{day}", logical_date=f"{day}T00:00:00+00:00", state="failed")
    where = ("--url", airflow.url, "--store", str(tmp_path), "--yes", "--poll", "0.01", "--events", "emit")
    try:
        assert main(["backfill", "run", "d", "--from", DAYS[0], "--to", DAYS[1], *where]) == 0
    finally:
        airflow.close()
    made = [post for post in airflow.posts if post["dag_run_id"] in airflow.runs]
    dates = {post["logical_date"] for post in made} & {run["logical_date"] for run in airflow.runs.values()}
    assert {f"{day}T00:00:01+00:00" for day in DAYS[:2]} <= dates
    assert made[-1]["data_interval_start"] == f"{DAYS[1]}T00:00:00+00:00"
    assert made[-1]["data_interval_end"] == f"{DAYS[2]}T00:00:00+00:00"
    assert "mute_events" not in made[-1]["conf"]


def test_the_estimate_knows_how_many_runs_the_dag_may_have(airflow: SmallAirflow, backfill: Command) -> None:
    airflow.put("scheduled__1", partition_key="2013-05-31")
    airflow.max_active_runs = 2
    told = backfill("plan", "--wave", "8")[1]
    assert "about 2 min (4 waves of 30 s" in told
    assert "the DAG has at most 2 runs at once (max_active_runs)" in told


def test_a_report_escapes_what_comes_from_outside() -> None:
    found = Reconciliation(
        plan_id="p", dag_id="d", first="a", last="b", reason="<script>|`x`", at="", asked=1, progress={},
        before={"fine": 1}, now={"fine": 1}, unexpected={DAYS[0]: "failed: <b>|\n# no heading"}, stopped="",
        events=Events("mute"), notes=[],
    )  # fmt: skip
    text = report_markdown(found)
    assert "&lt;script&gt;\\|\\`x\\`" in text
    assert "<" not in text
    assert "\n# no" not in text


def test_nothing_is_started_unless_somebody_confirms_it(
    airflow: SmallAirflow, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    days = ("--from", DAYS[0], "--to", DAYS[-1], "--url", airflow.url, "--store", str(tmp_path))
    assert main(["backfill", "run", "d", *days]) == 64
    assert "--yes" in capsys.readouterr().err
    assert main(["backfill", "run", "d", *days, "--dry-run"]) == 0
    assert capsys.readouterr().out.count('"mute_events": true') == len(DAYS)
    assert airflow.posts == []


def test_a_report_that_cannot_be_written_is_said_and_hides_no_outcome(
    airflow: SmallAirflow, backfill: Command, tmp_path: Path
) -> None:
    (tmp_path / "a file").touch()
    code, said = backfill("run", "--report", str(tmp_path / "a file" / "report.md"))
    assert code == 64
    assert "report.md cannot be written" in said
    assert "everything came out as planned" in said
    assert "Traceback" not in said


def test_an_empty_patience_is_the_usual_one(airflow: SmallAirflow, tmp_path: Path) -> None:
    days = ("--from", DAYS[0], "--to", DAYS[-1], "--url", airflow.url, "--store", str(tmp_path))
    assert main(["backfill", "plan", "d", *days, "--patience", ""]) == 0
