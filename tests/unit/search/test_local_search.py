"""Searches over processes of this machine: everything is found, nothing is lost, nothing runs twice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import msgspec
import polars as pl
import pytest
from search_world import KEY, Search

from airflow_ml_provider.contract.store import Store, local_path


def until(what: Callable[[], Any], seconds: float = 120) -> Any:
    """The first true value of ``what()``."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)
    return found


def test_two_thousand_trials_in_one_step_and_what_is_kept_of_them(search: Search) -> None:
    result = search.done(trials=2_000)
    assert (result.metrics["trials"], result.metrics["trials_done"]) == (2_000, 2_000)
    folder = local_path(Store(search.store).run_uri(KEY)) / "search"
    trials = pl.read_parquet(folder / "trials.parquet")
    assert trials.height == trials["number"].n_unique() == 2_000
    assert result.metrics["best_loss"] == trials["value"].min()
    best = trials.row(int(trials["value"].arg_min() or 0), named=True)
    assert result.summary["best trial"].startswith(f"{best['number']}: loss ")
    assert result.summary["best parameters"] == {
        name: best[f"param_{name}"] for name in ("kind", "leaves", "x")
    }
    told = msgspec.json.decode((folder / "search.json").read_bytes())
    assert sum(told["importances"].values()) == pytest.approx(1, abs=0.01)
    for figure in ("history", "importance", "slices"):
        assert (folder / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    assert b"Best trials" in (folder / "report.html").read_bytes()
    # A document for some trials together, not for each.
    assert len(list((folder).rglob("trials/*.json"))) < 100


@pytest.mark.slow
def test_twenty_thousand_trials_in_one_step(search: Search) -> None:
    result = search.done("stepwise", trials=20_000, pruner={"type": "percentile"})
    assert result.metrics["trials"] == 20_000
    assert result.metrics["trials_stopped"] > 5_000


def test_a_search_that_is_killed_goes_on_and_no_trial_that_is_done_runs_again(search: Search) -> None:
    given: dict[str, Any] = {"trials": 40, "sampler": "tpe", "batch": 12, "parallelism": 2}
    spec, gate = search.spec("gated", **given), search.code / "gate"
    done: dict[int, Any] = {}
    for passed in (7, 20):
        gate.write_text(str(passed))
        process = search.process(spec)
        until(lambda passed=passed: len(search.records(spec)) == passed)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert {n: search.records(spec)[n] for n in done} == done
        done = search.records(spec)
        assert list(done) == list(range(passed))
    gate.write_text("40")
    assert search.done("gated", **given).metrics["trials_done"] == 40
    after = search.records(spec)
    assert {n: after[n] for n in done} == done
    calls = search.calls()
    # Those at which it was killed ran once more.
    assert {n for n in range(40) if calls[str(n)] != 1} <= {7, 8, 20, 21}
    whole = Search(search.store + "-2", search.code)
    whole.done("gated", **{**given, "parallelism": 1})
    assert search.params(spec) == whole.params(spec)


def test_giving_up_saves_most_of_the_work_and_finds_as_good_a_trial(search: Search) -> None:
    best = {}
    for name, pruner in (("all", None), ("some", {"type": "halving", "first": 2})):
        other = Search(f"{search.store}-{name}", search.code)
        result = other.done("stepwise", trials=80, pruner=pruner, sampler="qmc", batch=8)
        best[name] = (
            result.metrics["best_loss"],
            len(search.note("steps")),
            result.metrics["trials_stopped"],
        )
        (search.code / "steps").unlink()
    assert best["all"][1:] == (80 * 20, 0)
    assert best["some"][1] < 80 * 20 / 2
    assert best["some"][2] > 40
    assert best["some"][0] == pytest.approx(best["all"][0], abs=0.05)


def test_a_trial_that_kills_its_process_is_tried_again_and_then_has_failed(search: Search) -> None:
    spec = search.spec("deadly", trials=8, parallelism=1, max_failed=1)
    result = search.done("deadly", trials=8, parallelism=1, max_failed=1)
    records = search.records(spec)
    assert (records[3].state, records[3].tries) == ("done", 2)
    assert (records[5].state, records[5].tries) == ("failed", 2)
    assert "SIGKILL" in records[5].error.message if records[5].error else False
    assert result.summary["failed trials"][0].startswith("trial 5, ")
    assert search.calls() == {str(n): 2 if n in (3, 5) else 1 for n in range(8)}


def test_failed_trials_are_kept_with_their_error_and_may_be_some(search: Search) -> None:
    spec = search.spec("picky", trials=20, max_failed=0.9)
    result = search.done("picky", trials=20, max_failed=0.9)
    failed = [record for record in search.records(spec).values() if record.state == "failed"]
    assert 0 < len(failed) == result.metrics["trials_failed"] < 20
    assert all(record.error is not None and "ValueError" in record.error.traceback for record in failed)
    assert result.metrics["best_loss"] <= 0.5
    # The same trials stay failed: with other code they are other trials.
    calls = len(search.note("calls"))
    message = search.failed("picky", trials=20, max_failed=1)
    assert f"{len(failed)} of 20 trials failed (1 may)" in message
    assert "trials that failed stay failed" in message
    assert len(search.note("calls")) == calls


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("broken", "broken raised ValueError: never works"),
        ("elsewhere", "gave no metric 'loss': it gave the metrics accuracy"),
        ("odd", "gave the metric 'loss' as nan"),
    ],
)
def test_a_function_that_never_gives_the_metric_ends_the_search_after_the_first_trials(
    search: Search, function: str, said: str
) -> None:
    result = search.run(function, trials=500, batch=4, parallelism=1, sampler="tpe")
    assert result.failure is not None
    assert result.failure.kind == "user"
    assert "4 of 4 trials failed, and 496 did not run" in result.failure.message
    assert said in result.failure.message


def test_when_the_time_is_up_no_trial_is_begun_and_more_time_goes_on(search: Search) -> None:
    assert "no trial ended within 1e-06 s" in search.failed(trials=12, seconds=1e-6)
    assert search.done(trials=5).summary["trials"] == 5
    late = search.done(trials=12, seconds=1e-6)
    assert late.summary["trials"] == 5
    assert "the search ended after 5 of 12 trials: its time was up" in late.warnings[0]
    assert search.done(trials=12, seconds=600).summary["trials"] == 12


def test_a_grid_ends_with_its_last_point(search: Search) -> None:
    space = {
        "x": {"type": "floats", "low": 0, "high": 1, "step": 0.25},
        "kind": {"type": "choices", "of": [None]},
    }
    given: dict[str, Any] = {"space": {**space, "leaves": {"type": "integers", "low": 39, "high": 41}}}
    result = search.done(sampler="grid", trials=1000, **given)
    assert result.summary["trials"] == 15
    assert result.summary["best parameters"] == {"kind": None, "leaves": 40, "x": 0.25}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"space": {}}, "nothing to look for"),
        ({"params": {"x": 1}}, "has x both in search= and in hyperparameters="),
        ({"sampler": "tpi"}, "did you mean 'tpe'"),
        ({"function": "objectives:bowls"}, "did you mean 'bowl'"),
        ({"model": {"name": "m"}}, "no table of rows to train it on"),
        ({"space": {"x": {"type": "floats", "low": 2, "high": 1}}}, "low is above high"),
    ],
)
def test_what_cannot_be_is_said_before_any_trial(search: Search, wrong: dict[str, Any], said: str) -> None:
    from airflow_ml_provider.contract.errors import ConfigError

    try:
        message = search.failed(**{"function": "bowl", **wrong})
    except ConfigError as error:
        message = str(error)
    assert said in message
    assert not search.note("calls")
