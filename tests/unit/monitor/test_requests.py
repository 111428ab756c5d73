"""Requests for a retraining: when one holds back another, and who writes it when several ask at once."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_ml_provider.contract.errors import ConfigError, DataError
from airflow_ml_provider.contract.retraining import Reason, Request, Retrain
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.registry.retraining import Requests, held_back

NOW = datetime(2026, 3, 1, 8, tzinfo=UTC)
WEEKLY = Retrain(at_most_every="7d")


def wanted(newest: str = "2026-02-28", step: str = "", sequence: int = 0, at: str = "") -> Request:
    return Request(
        sequence=sequence, model="delays", version=3, at=at, newest=newest, partitions=newest,
        reasons=(Reason("drift", "the score moved"),), step_key=step or f"step-{newest}", fingerprint="f",
    )  # fmt: skip


def test_a_request_is_written_with_its_reasons_and_held_back_the_next(store: str) -> None:
    requests = Requests(Store(store), "delays")
    first = requests.ask(WEEKLY, wanted("2026-02-28"), NOW)
    second = requests.ask(WEEKLY, wanted("2026-03-01"), NOW + timedelta(days=1))

    assert first.request is not None
    assert (first.request.sequence, first.request.at) == (1, "2026-03-01T08:00:00Z")
    assert second.request is None
    assert second.held_back == (1, "2026-03-08T08:00:00Z", "now")
    assert requests.all() == [first.request]
    assert Store(store).read_json("registry/delays/retraining/00000001.json")["reasons"] == [
        {"rule": "drift", "because": "the score moved"}
    ]


def test_after_the_time_a_finding_about_later_days_asks_again(store: str) -> None:
    requests = Requests(Store(store), "delays")
    requests.ask(WEEKLY, wanted("2026-02-28"), NOW)
    later = requests.ask(WEEKLY, wanted("2026-03-07"), NOW + timedelta(days=7))
    assert later.request is not None
    assert later.request.sequence == 2


def test_a_day_that_a_retraining_has_answered_does_not_ask_again_whenever_it_is_rerun(store: str) -> None:
    requests = Requests(Store(store), "delays")
    requests.ask(WEEKLY, wanted("2026-02-28"), NOW)
    for day in ("2013-06-01", "2026-02-28", "2026-03-06"):
        rerun = requests.ask(WEEKLY, wanted(day, step="rerun"), NOW + timedelta(days=60))
        assert rerun.held_back == (1, "2026-03-07T00:00:00Z", "partition")


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_backfill_of_thirty_old_days_asks_once(store: str, newest_first: bool) -> None:
    requests = Requests(Store(store), "delays")
    days = [f"{date(2013, 6, 1) + timedelta(days=n)}" for n in range(30)]
    for minute, day in enumerate(reversed(days) if newest_first else days):
        requests.ask(WEEKLY, wanted(day), NOW + timedelta(minutes=minute))
    assert len(requests.all()) == 1


def test_a_later_try_of_a_step_finds_its_own_request(store: str) -> None:
    requests = Requests(Store(store), "delays")
    first = requests.ask(WEEKLY, wanted(), NOW)
    again = requests.ask(WEEKLY, wanted(), NOW + timedelta(hours=1))
    assert again == first
    assert len(requests.all()) == 1


def test_partitions_that_are_no_times_are_held_back_by_time_alone() -> None:
    asked = [wanted("", step="a", sequence=1, at="2026-03-01T08:00:00Z")]
    assert held_back(asked, WEEKLY, NOW + timedelta(days=6), "") == (1, "2026-03-08T08:00:00Z", "now")
    assert held_back(asked, WEEKLY, NOW + timedelta(days=7), "") is None


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 60)), max_size=40), st.sampled_from(["1d", "7d"])
)
def test_two_requests_are_always_apart_in_time_and_in_days(
    findings: list[tuple[int, int]], apart: str
) -> None:
    rules, asked = Retrain(at_most_every=apart), list[Request]()
    for hours, day in sorted(findings):
        now, newest = NOW + timedelta(hours=hours), f"{date(2026, 1, 1) + timedelta(days=day)}"
        if held_back(asked, rules, now, newest) is None:
            asked.append(wanted(newest, sequence=len(asked) + 1, at=now.isoformat()))
    least = timedelta(seconds=rules.apart_seconds)
    for one, two in pairwise(asked):
        assert datetime.fromisoformat(two.at) - datetime.fromisoformat(one.at) >= least
        assert date.fromisoformat(two.newest) - date.fromisoformat(one.newest) >= least


ASKING = """
import sys, time
from datetime import UTC, datetime
from pathlib import Path
from airflow_ml_provider.contract.retraining import Reason, Request, Retrain
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.registry.retraining import Requests

store, folder, me = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
wanted = Request(sequence=0, model="delays", version=3, at="", newest="2026-02-28", partitions="x",
                 reasons=(Reason("drift", "moved"),), step_key=me, fingerprint="f")
requests = Requests(Store(store), "delays")
requests.all()
(folder / me).touch()
while len(list(folder.iterdir())) < 4:
    time.sleep(0.001)
asked = requests.ask(Retrain(), wanted, datetime.now(UTC))
print(asked.request.step_key if asked.request else f"held back by {asked.held_back.by}")
"""


def test_of_four_processes_that_ask_at_once_one_writes_and_holds_back_the_others(
    store: str, tmp_path: Path
) -> None:
    folder = tmp_path / "ready"
    folder.mkdir()
    command = [sys.executable, "-c", ASKING, store, str(folder)]
    processes = [
        subprocess.Popen([*command, f"step-{n}"], stdout=subprocess.PIPE, text=True) for n in range(4)
    ]
    said = sorted(process.communicate(timeout=60)[0].strip() for process in processes)

    [request] = Requests(Store(store), "delays").all()
    assert said == ["held back by 1"] * 3 + [request.step_key]


def test_a_document_that_is_no_request_is_named(store: str) -> None:
    Store(store).write("registry/delays/retraining/00000001.json", b"{}")
    with pytest.raises(DataError, match=r"00000001\.json .* is not a request for a retraining of 'delays'"):
        Requests(Store(store), "delays").ask(WEEKLY, wanted(), NOW)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"drift": False}, "a Retrain without any rule asks for nothing"),
        ({"performance_loss": 2}, "performance_loss is 2"),
        ({"new_rows": 0}, "new_rows is 0"),
        ({"at_most_every": "weekly"}, "at_most_every: 'weekly' is not an age"),
        ({"at_most_every": "0d"}, "at_most_every is no time at all"),
        ({"count": Table("rows")}, "count= names a table, and new_rows= is not given"),
    ],
)
def test_rules_that_make_no_sense_are_refused(rules: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Retrain(**rules)  # type: ignore[arg-type]
    assert message in str(error.value)
