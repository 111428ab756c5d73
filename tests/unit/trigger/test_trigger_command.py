"""`airflow-ml trigger` from start to exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_airflow import FakeAirflow, wait_until

from airflow_ml_provider.cli.trigger_start import run_id_of

Trigger = Callable[..., int]
REPOSITORY = Path(__file__).parents[3]


def test_without_waiting_the_run_is_started_and_shown(
    airflow: FakeAirflow, trigger: Trigger, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trigger("--param", "until=2013-04-30", "--param", "seed=7", "--partition", "2013-04-30") == 0
    [(_, run_id)] = airflow.runs
    run = airflow.runs["train", run_id].document
    assert run["conf"] == {"until": "2013-04-30", "seed": 7}
    assert run["partition_key"] == "2013-04-30"
    assert (
        f"started run {run_id}: {airflow.url}/dags/train/runs/{run_id.replace(':', '%3A')}"
        in capsys.readouterr().out
    )


def test_a_run_is_followed_with_a_line_for_each_change(
    airflow: FakeAirflow, trigger: Trigger, capsys: pytest.CaptureFixture[str]
) -> None:
    airflow.script = [
        ("running", {"fit": "running", "judge": "none"}),
        ("running", {"fit": "running", "judge": "none"}),
        ("running", {"fit": "success", "judge": "running"}),
        ("success", {"fit": "success", "judge": "success"}),
    ]
    assert trigger("--gate", "roc_auc>=0.74", "--gate", "verdict==promote") == 0
    said = [line.split("  ", 1)[1] for line in capsys.readouterr().out.splitlines()][1:]
    assert [" ".join(line.split()) for line in said] == [
        "fit running",
        "fit success 4.2 s",
        "judge running",
        "judge success 4.2 s",
        "the run: success 12.5 s",
        "gate met: roc_auc >= 0.74 (judge reports 0.7512)",
        "gate met: verdict == promote (judge reports promote)",
    ]


def test_a_gate_that_is_not_met_has_its_own_exit_code(
    airflow: FakeAirflow, trigger: Trigger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = ("--report", str(tmp_path / "new" / "r.md"), "--junit", str(tmp_path / "j.xml"))
    assert trigger("--gate", "roc_auc>=0.9", "--gate", "rok_auc>=0.1", *reports) == 3
    output = capsys.readouterr().out
    assert "gate NOT MET: roc_auc >= 0.9" in output
    assert "did you mean 'roc_auc'" in output
    assert "2 of 2 gates not met" in (tmp_path / "new" / "r.md").read_text()
    assert 'failures="2"' in (tmp_path / "j.xml").read_text()


def test_a_failed_run_shows_the_end_of_the_failed_tasks_log(
    airflow: FakeAirflow, trigger: Trigger, capsys: pytest.CaptureFixture[str]
) -> None:
    airflow.script = [
        ("running", {"fit": "running", "judge": "none"}),
        ("failed", {"fit": "failed", "judge": "upstream_failed"}),
    ]
    detail = [{"exc_type": "DataError", "exc_value": "no rows", "frames": []}]
    airflow.logs["fit"] = [{"event": f"line {n}"} for n in range(100)]
    airflow.logs["fit"] += [{"event": "::set-output name=x::y", "error_detail": detail}]
    assert trigger("--wait", "--gate", "roc_auc>0") == 1
    output = capsys.readouterr().out
    assert "  | ::set-output name=x::y\n  | DataError: no rows\n" in output
    assert "line 99" in output
    assert "line 70\n" not in output
    assert "not run: a task before it failed" in output


def test_a_log_and_an_output_that_airflow_cannot_read_do_not_end_the_job(
    airflow: FakeAirflow, trigger: Trigger, capsys: pytest.CaptureFixture[str]
) -> None:
    airflow.script = [("failed", {"fit": "failed", "judge": "success", "odd": "success"})]
    airflow.outputs["odd"] = {"accuracy": 1}
    airflow.fail("GET", "/logs/", *[500] * 99)
    airflow.fail("GET", "/odd/xcomEntries/return_value", *[500] * 99)
    assert trigger("--gate", "roc_auc>=0.7", "--patience", "2s") == 1
    output = capsys.readouterr().out
    assert "(the log cannot be read: Airflow at" in output
    assert "what odd returned cannot be read" in output
    assert "gate met: roc_auc" in output


def test_the_same_key_finds_the_same_run(
    airflow: FakeAirflow, trigger: Trigger, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--key", "c0ffee", "--param", "seed=1", "--wait")
    assert trigger(*words) == 0
    assert trigger(*words) == 0
    assert list(airflow.runs) == [("train", run_id_of("train", "c0ffee"))]
    output = capsys.readouterr().out
    assert "found run" in output
    assert "it has ended already: success" in output


@pytest.mark.parametrize(
    ("words", "said"),
    [(("--param", "seed=2"), "in parameter seed"), (("--param", "until=x"), "in parameter seed, parameter until"),
     (("--param", "seed=1", "--partition", "p"), "in partition")],
)  # fmt: skip
def test_the_same_key_with_another_meaning_is_an_error(
    airflow: FakeAirflow,
    trigger: Trigger,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    said: str,
) -> None:
    assert trigger("--key", "c0ffee", "--param", "seed=1") == 0
    assert trigger("--key", "c0ffee", *words) == 64
    assert said in capsys.readouterr().err
    assert len(airflow.runs) == 1


def test_a_run_without_a_key_is_new_each_time(airflow: FakeAirflow, trigger: Trigger) -> None:
    assert (trigger(), trigger()) == (0, 0)
    assert len(airflow.runs) == 2


def test_a_failed_run_goes_on_from_its_failed_tasks_if_asked(airflow: FakeAirflow, trigger: Trigger) -> None:
    good, airflow.script = airflow.script, [("failed", {"fit": "failed"})]
    assert trigger("--key", "k", "--wait") == 1
    assert trigger("--key", "k", "--wait") == 1
    airflow.script = good
    assert trigger("--key", "k", "--wait", "--retry-failed") == 0
    assert len(airflow.runs) == 1


def test_following_survives_restarts_dropped_connections_and_an_expired_token(
    airflow: FakeAirflow, trigger: Trigger
) -> None:
    airflow.script = [("running", {"fit": "running"})] * 8 + [("success", {"fit": "success"})]

    def trouble(look: int) -> None:
        if look == 2:
            airflow.fail("GET", "/taskInstances", "drop", "lose")
        if look == 4:
            airflow.tokens.clear()
        if look == 6:
            airflow.fail("GET", "/dagRuns", 503)

    airflow.on_look = trouble
    airflow.fail("POST", "/dagRuns", "lose")
    assert trigger("--wait") == 0
    assert len(airflow.runs) == 1
    assert not airflow.faults


def test_a_run_that_takes_too_long_is_left_running(
    airflow: FakeAirflow, trigger: Trigger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    airflow.script = [("running", {"fit": "running"})]
    assert trigger("--timeout", "1s", "--report", str(tmp_path / "r.md")) == 4
    [(_, run_id)] = airflow.runs
    assert f"--attach {run_id} --wait" in capsys.readouterr().out
    assert "still running after 1" in (tmp_path / "r.md").read_text()
    assert airflow.count("PATCH", run_id) == 0


def test_a_run_is_attached_to_by_its_id_and_one_that_is_not_there_is_said(
    airflow: FakeAirflow, trigger: Trigger, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trigger("--key", "k", "--param", "seed=1") == 0
    assert trigger("--attach", run_id_of("train", "k"), "--wait") == 0
    assert trigger("--attach", "other", "--wait") == 64
    assert "has no run other" in capsys.readouterr().err


def test_an_airflow_that_goes_away_for_good_ends_with_a_way_back(
    airflow: FakeAirflow, trigger: Trigger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    airflow.script = [("running", {"fit": "running"})]
    airflow.on_look = lambda look: airflow.fail("GET", "/dagRuns", *[503] * 50)
    assert trigger("--wait", "--patience", "1s", "--junit", str(tmp_path / "j.xml")) == 75
    said = capsys.readouterr()
    assert "whatever runs in Airflow goes on" in said.err
    assert "--attach" in said.out
    assert 'errors="1"' in (tmp_path / "j.xml").read_text()


def test_a_paused_dag_is_refused_or_unpaused(
    airflow: FakeAirflow, trigger: Trigger, capsys: pytest.CaptureFixture[str]
) -> None:
    airflow.dags["train"]["is_paused"] = True
    assert trigger("--wait") == 64
    assert "give --unpause" in capsys.readouterr().err
    assert not airflow.runs
    assert trigger("--wait", "--unpause") == 0


def test_a_parameter_that_the_dag_does_not_have_is_warned_of(
    trigger: Trigger, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trigger("--param", "untill=1", "--param", "mute_events=true") == 0
    output = capsys.readouterr().out
    assert "no parameter 'untill': did you mean 'until'" in output
    assert "mute_events" not in output


def test_a_dag_that_does_not_exist_and_wrong_credentials_are_refusals(
    airflow: FakeAirflow,
    trigger: Trigger,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert trigger(dag="trian") == 64
    assert "check the DAG's id" in capsys.readouterr().err
    monkeypatch.setenv("AIRFLOW_ML_PASSWORD", "s3cret")
    assert trigger() == 64
    output = capsys.readouterr()
    assert "check user and password" in output.err
    assert "s3cret" not in output.out + output.err


def test_a_task_that_asks_people_says_where(
    airflow: FakeAirflow, trigger: Trigger, capsys: pytest.CaptureFixture[str]
) -> None:
    airflow.script = [("running", {"ask": "awaiting_input"}), ("success", {"ask": "success"})]
    assert trigger("--wait", "--key", "k") == 0
    page = f"{airflow.url}/dags/train/runs/{run_id_of('train', 'k')}/tasks/ask/required_actions"
    assert f"waits for an approval: {page}" in capsys.readouterr().out


def test_a_mapped_task_of_many_parts_tells_failures_only(
    airflow: FakeAirflow, trigger: Trigger, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {f"fit#{n}": "success" for n in range(150)}
    airflow.script = [("failed", {**parts, "fit#77": "failed"})]
    assert trigger("--wait") == 1
    output = capsys.readouterr().out
    assert "fit[77]" in output
    assert "fit[76]" not in output


@pytest.mark.parametrize(
    "words",
    [("--gate", "a=1"), ("--param", "x"), ("--params", "[1]"), ("--params", "@/no/file"), ("--timeout", "soon"),
     ("--params", '{"rounds": NaN}'), ("--ca", "/no/file"), ("--key", "a", "--attach", "b"), ("--wai",)],
)  # fmt: skip
def test_a_wrong_command_line_is_told_before_anything_is_called(
    airflow: FakeAirflow, trigger: Trigger, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        trigger(*words)
    assert caught.value.code == 2
    assert not airflow.calls


def test_parameters_come_from_a_file_and_single_ones_win(
    airflow: FakeAirflow, trigger: Trigger, tmp_path: Path
) -> None:
    (tmp_path / "p.json").write_text(json.dumps({"until": "a", "seed": {"deep": [1]}}))
    assert trigger("--params", f"@{tmp_path / 'p.json'}", "--param", "until=b=c") == 0
    [run] = airflow.runs.values()
    assert run.document["conf"] == {"until": "b=c", "seed": {"deep": [1]}}


def job(airflow: FakeAirflow, *words: str) -> subprocess.Popen[str]:
    """The command in a process where neither Airflow nor any heavy library can be imported."""
    program = (
        "import sys\n"
        "for name in 'airflow pandas polars numpy mlflow sklearn deltalake pyarrow obstore'.split():\n"
        "    sys.modules[name] = None\n"
        "from airflow_ml_provider.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    env = {
        **os.environ,
        "AIRFLOW_ML_USER": "ci",
        "AIRFLOW_ML_PASSWORD": "s3cret-word",
        "PYTHONPATH": str(REPOSITORY),
    }
    command = [
        sys.executable,
        "-c",
        program,
        "trigger",
        "train",
        "--url",
        airflow.url,
        "--poll",
        "0s",
        *words,
    ]
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_it_runs_where_no_airflow_is_installed(airflow: FakeAirflow) -> None:
    process = job(airflow, "--gate", "verdict==promote")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, output + errors


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_job_leaves_the_run_and_says_how_to_follow_it(
    airflow: FakeAirflow, number: signal.Signals, code: int
) -> None:
    airflow.script = [("running", {"fit": "running"})]
    process = job(airflow, "--wait", "--key", "k")
    wait_until(lambda: airflow.count("GET", "/taskInstances") > 1)
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == code, output + errors
    assert f"--attach {run_id_of('train', 'k')} --wait" in output
    assert airflow.count("PATCH", "/dagRuns") == 0
    assert "Traceback" not in errors


def test_an_interrupted_job_ends_its_run_if_asked(airflow: FakeAirflow, tmp_path: Path) -> None:
    airflow.script = [("running", {"fit": "running"})]
    report = tmp_path / "r.md"
    process = job(airflow, "--cancel-on-interrupt", "--report", str(report))
    wait_until(lambda: airflow.count("GET", "/taskInstances") > 1)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 143, output + errors
    [run] = airflow.runs.values()
    assert run.step()[0] == "failed"
    assert "the run was cancelled" in report.read_text()
