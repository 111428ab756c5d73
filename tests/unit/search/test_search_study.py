"""Studies: which trials are asked for, and what is known of them after whatever happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from search_world import Search

from airflow_ml_provider.contract.arguments import SearchArguments
from airflow_ml_provider.contract.documents import StepSpec
from airflow_ml_provider.contract.errors import UserCodeError
from airflow_ml_provider.contract.fleets import ItemError
from airflow_ml_provider.contract.search_ledger import TrialRecord, merge
from airflow_ml_provider.steps import search_ask
from airflow_ml_provider.steps.context import StepContext
from airflow_ml_provider.steps.search_study import Study
from airflow_ml_provider.steps.search_work import Work

LOST = ItemError("infrastructure", "ProcessLost", "gone")


def study_of(spec: StepSpec, scratch: Path) -> Study:
    """The study as a process that has just started finds it."""
    arguments = spec.typed_arguments()
    assert isinstance(arguments, SearchArguments)
    return Study(StepContext(spec, scratch), arguments)


def run_here(spec: StepSpec, scratch: Path, most: int = 1_000_000, *, backwards: bool = False) -> Study:
    """Run trials in this process; each round's in another order, if asked for."""
    study = study_of(spec, scratch)
    work = Work(study.step, study.arguments)
    while most > 0 and (current := study.next_round()) is not None:
        pending = study.pending(current)
        for number, params, tries in (pending[::-1] if backwards else pending)[:most]:
            record = work.do(number, params, current.bars, tries)
            study.add(record)
            study.ledger.keep(current.number, [record])
            most -= 1
    return study


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe", "objectives:sampler"])
def test_the_same_search_has_the_same_trials_whoever_is_faster_and_wherever_it_goes_on(
    search: Search, tmp_path: Path, sampler: str
) -> None:
    given: dict[str, Any] = {
        "sampler": sampler,
        "batch": 6,
        "pruner": {"type": "percentile", "startup_trials": 3},
    }
    spec = search.spec("stepwise", trials=26, **given)
    whole = run_here(spec, tmp_path)
    expected = [(params, record.state, record.metrics) for params, record in whole.known]
    assert len(expected) == 26
    other = Search(search.store + "-2", search.code)
    spec = other.spec("stepwise", trials=26, **given)
    for most in (3, 9, 1, 100):
        # As often as it is killed, somebody else goes on, from the ledger alone.
        again = run_here(spec, tmp_path, most, backwards=True)
    assert [(params, record.state, record.metrics) for params, record in again.known] == expected


def test_a_search_of_another_seed_has_other_trials(search: Search, tmp_path: Path) -> None:
    found = []
    for seed in (1, 2):
        spec = search.spec(trials=20, sampler="tpe", seed=seed)
        found.append([params for params, _ in run_here(spec, tmp_path).known])
    assert not any(one == other for one, other in zip(*found, strict=True))


def test_more_trials_go_on_with_the_study_as_if_they_had_been_asked_for_at_first(
    search: Search, tmp_path: Path
) -> None:
    fewer = run_here(search.spec(trials=17, sampler="tpe", batch=5), tmp_path)
    assert len(fewer.known) == 17
    more = run_here(search.spec(trials=40, sampler="tpe", batch=5), tmp_path)
    other = Search(search.store + "-2", search.code)
    at_first = run_here(other.spec(trials=40, sampler="tpe", batch=5), tmp_path)
    assert [params for params, _ in more.known] == [params for params, _ in at_first.known]
    assert [record.ended for _, record in more.known[:17]] == [record.ended for _, record in fewer.known]


@pytest.mark.parametrize(
    "change", [{"sampler": "qmc"}, {"batch": 9}, {"metric": "x"}, {"params": {"depth": 3}}, {"seed": 5}]
)
def test_what_a_study_depends_on_begins_a_new_one_and_says_what_changed(
    search: Search, tmp_path: Path, change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    study = run_here(search.spec(trials=5), tmp_path)
    study.introduce()
    changed = study_of(search.spec(trials=5, **change), tmp_path)
    with caplog.at_level("INFO"):
        changed.introduce()
    assert not changed.records
    assert f"a new study, since this has changed: {next(iter(change))}: " in caplog.text
    for same in ({"trials": 9}, {"parallelism": 3}, {"max_failed": 0.5}, {"tries": 5}, {"seconds": 60}):
        assert len(study_of(search.spec(**{"trials": 5, **same}), tmp_path).records) == 5


def test_tpe_finds_better_values_than_chance(search: Search, tmp_path: Path) -> None:
    best = {}
    for sampler in ("random", "tpe"):
        study = run_here(search.spec(trials=60, sampler=sampler, seed=3), tmp_path)
        best[sampler] = min(record.metrics["loss"] for _, record in study.known)
    assert best["tpe"] < best["random"]


def test_tpe_is_shown_the_best_the_newest_and_some_of_all_of_many_trials(search: Search) -> None:
    arguments = search.spec(sampler="tpe").typed_arguments()
    assert isinstance(arguments, SearchArguments)
    losses = [(7919 * number) % 5003 for number in range(5000)]
    known = [({}, TrialRecord(n, "done", {"loss": float(loss)})) for n, loss in enumerate(losses)]
    shown = [record for _, record in search_ask._telling(known, arguments)]
    assert len(shown) <= 150
    assert {record.number for record in shown} >= set(range(4925, 5000))
    assert sorted(losses)[:25] == sorted(record.metrics["loss"] for record in shown)[:25]
    assert {record.number // 1000 for record in shown} == {0, 1, 2, 3, 4}
    assert [record.number for record in shown] == sorted(record.number for record in shown)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_long_search_has_few_rounds_and_none_without_an_end(search: Search, sampler: str) -> None:
    arguments = search.spec(sampler=sampler, pruner={"type": "percentile"}).typed_arguments()
    assert isinstance(arguments, SearchArguments)
    asked, rounds = 0, 0
    while asked < 20_000:
        size = search_ask.size_of_round(arguments, asked)
        assert 10 <= size <= 1000
        asked, rounds = asked + size, rounds + 1
    assert rounds < 250


def test_an_own_sampler_is_asked_and_what_is_none_is_refused(search: Search, tmp_path: Path) -> None:
    study = study_of(search.spec(sampler="objectives:bowl"), tmp_path)
    with pytest.raises(
        UserCodeError, match=r"objectives:bowl asks for 'params', which is not available here"
    ):
        study.next_round()


def test_records_of_a_trial_are_merged_in_whatever_order_they_are_read() -> None:
    records = [
        TrialRecord(1, "running", tries=1),
        TrialRecord(1, "failed", tries=1, error=LOST),
        TrialRecord(1, "running", tries=2),
        TrialRecord(1, "done", {"loss": 1.0}, tries=2),
    ]
    for order in (records, records[::-1], records[2:] + records[:2]):
        found: dict[int, TrialRecord] = {}
        merge(found, order)
        assert found == {1: records[3]}


def test_a_trial_whose_place_failed_it_runs_again_and_one_whose_code_did_does_not(
    search: Search, tmp_path: Path
) -> None:
    spec = search.spec(trials=3)
    study = study_of(spec, tmp_path)
    current = study.next_round()
    assert current is not None
    failed = ItemError("user", "ValueError", "no")
    for record in (
        TrialRecord(0, "failed", error=LOST), TrialRecord(1, "failed", error=failed),
        TrialRecord(2, "failed", tries=2, error=LOST),
    ):  # fmt: skip
        study.ledger.keep(0, [record])
    again = study_of(spec, tmp_path)
    assert [(number, tries) for number, _, tries in again.pending(current)] == [(0, 2)]


def test_a_round_that_is_over_lies_in_one_document(search: Search, tmp_path: Path) -> None:
    spec = search.spec(trials=12, batch=12)
    study = run_here(spec, tmp_path)
    before = study.ledger.records()
    study.close(study.rounds[0])
    paths = list(study.ledger.store.paths(f"{study.ledger.folder}/trials"))
    assert [path.rsplit("/", 1)[1] for path in paths] == ["00000.json"]
    assert study.ledger.records() == before
