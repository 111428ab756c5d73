"""Work that has been done is not done again, whoever did it, and every decision says why."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from memo_world import DAYS, SHOP, Shop, context_of, run

from airflow_ml_provider.contract.errors import ConfigError

LABEL = """
    from airflow_ml_provider import Label

    def large(raw: pl.LazyFrame) -> pl.LazyFrame:
        return raw.select("id", large=(pl.col("amount") > 5).cast(pl.Int64))

    LABELLED = FeatureSet(rows=orders, key=("id",), prediction_time="at", row_features=("amount",), views=(),
                          label=Label("large", large, matures_after="1h"))
    """

# Hits


def test_another_run_of_the_task_uses_the_result_and_says_whose_it_is(shop: Shop) -> None:
    task = shop.features()
    first = run(task, "run_1")
    again = run(task, "run_2")
    assert shop.compute.verbs == ["features"]
    assert first["cache"]["decision"] == "miss"
    cache = again["cache"]
    assert cache["decision"] == "hit"
    assert (cache["made_by"]["dag_id"], cache["made_by"]["run_id"]) == ("builds", "run_1")
    assert cache["made_by"]["url"] == again["links"]["Made by"] == "http://airflow/builds/run_1/rows"
    assert cache["why"].startswith("made by run run_1 of builds, task rows, at 20")
    assert again["table"]["version"] == first["table"]["version"]
    assert again["table"].get("changed", True) is False


def test_another_dag_that_asks_for_the_same_uses_it_too(shop: Shop) -> None:
    run(shop.validate("checks"))
    again = run(shop.validate("checks_before_prediction"), "other_run")
    assert shop.compute.verbs == ["validate"]
    assert again["cache"]["made_by"]["dag_id"] == "checks"
    assert again["verdict"]["success"]


def test_a_backfill_uses_what_the_schedule_has_made_and_the_other_way_round(shop: Shop) -> None:
    task = shop.features(partitions="{{ params.day }}")
    run(task, "scheduled__1", params={"day": DAYS[0]})
    run(task, "backfill__1", params={"day": DAYS[0]})
    run(task, "backfill__2", params={"day": DAYS[1]})
    run(task, "scheduled__2", params={"day": DAYS[1]})
    assert len(shop.compute.launches) == 2


def test_a_task_that_has_used_a_result_finds_it_as_its_own_afterwards(shop: Shop) -> None:
    task = shop.features()
    run(task, "run_1")
    second = run(task, "run_2")
    retried = run(task, "run_2", try_number=2)
    assert shop.compute.verbs == ["features"]
    assert "has done exactly this already" in retried["cache"]["why"]
    assert retried["table"] == second["table"]


def test_new_rows_in_other_partitions_change_nothing_for_a_step_that_reads_its_own(shop: Shop) -> None:
    task = shop.validate()
    before = run(task, "run_1")
    shop.publish(5.0, DAYS[2])
    after = run(task, "run_2")
    assert shop.compute.verbs == ["validate"]
    assert after["cache"]["decision"] == "hit"
    # Who reads the output reads the table as it is now.
    assert after["table"]["version"] == before["table"]["version"] + 1


def test_a_publication_elsewhere_in_the_table_leaves_a_hit_and_its_output_is_the_newest_version(
    shop: Shop,
) -> None:
    first = run(shop.features(partitions=DAYS[0]), "run_1")
    run(shop.features("others", partitions=DAYS[2]), "run_1")
    again = run(shop.features(partitions=DAYS[0]), "run_2")
    assert again["cache"]["decision"] == "hit"
    assert again["table"]["version"] > first["table"]["version"]


def test_a_hit_tells_what_running_would_have_told_and_that_it_was_reused(shop: Shop) -> None:
    task = shop.validate()
    run(task, "run_1")
    context = context_of(task, "run_2")
    run(task, context=context)
    [asset] = context["task"].outlets
    extra = context["outlet_events"][asset].extra
    assert extra["verdict"]["success"] is True
    assert extra["reused"].startswith("made by run run_1 of checks")


def test_a_publication_that_is_used_again_changed_nothing_and_triggers_nothing(shop: Shop) -> None:
    task = shop.features()
    context = context_of(task, "run_1")
    run(task, context=context)
    assert [asset.name for asset in context["task"].outlets]
    context = context_of(task, "run_2")
    run(task, context=context)
    assert context["task"].outlets == []


@pytest.mark.parametrize(("known_at", "computed"), [("", 2), ("2014-01-01", 1)])
def test_labels_that_mature_by_time_are_looked_for_again_unless_it_is_said_until_when(
    shop: Shop, known_at: str, computed: int
) -> None:
    shop.write("labelled", SHOP + LABEL)
    task = shop.features(features="labelled:LABELLED", labels=True, known_at=known_at)
    run(task, "run_1")
    run(task, "run_2")
    run(task, "run_2", try_number=2)
    assert len(shop.compute.launches) == computed


# Misses, each explained


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("table", "table raw 0 -> 1"),
        ("code", "code changed (shop.py)"),
        ("new module", "code changed (helper.py is new, shop.py)"),
        ("partitions", "partitions: 2013-01-01..2013-01-02 -> 2013-01-02"),
        ("seed", "seed: 0 -> 1"),
        ("suite", "suite: null -> suite.json"),
        ("package", "airflow-ml-provider 0 -> "),
    ],
)
def test_each_part_that_changed_is_named(
    shop: Shop, change: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = shop.features()
    if change == "package":
        monkeypatch.setattr("airflow_ml_provider.operators.specs.__version__", "0")
    run(task, "run_1")
    monkeypatch.undo()
    monkeypatch.setenv("AIRFLOW__ML__STORE", shop.store.uri)
    if change == "table":
        shop.publish(2.0, DAYS[0])
    elif change == "code":
        shop.write("shop", SHOP + "\n    CHANGED = 1\n")
    elif change == "new module":
        shop.write("helper", "HELPED = 1")
        shop.write("shop", "\n    import helper\n" + SHOP)
    elif change == "partitions":
        task = shop.features(partitions=DAYS[1])
    elif change == "seed":
        task = shop.features(seed=1)
    elif change == "suite":
        task = shop.features(suite="suite.json")
    again = run(task, "run_2")
    assert again["cache"]["decision"] == "miss"
    assert said in again["cache"]["why"]
    assert len(shop.compute.launches) == 2


def test_a_day_is_compared_with_the_last_time_it_was_made_and_not_with_another_day(shop: Shop) -> None:
    task = shop.features(partitions="{{ params.day }}")
    run(task, "a", params={"day": DAYS[0]})
    run(task, "b", params={"day": DAYS[1]})
    shop.publish(2.0, DAYS[0])
    assert run(task, "c", params={"day": DAYS[0]})["cache"]["why"] == "table raw 0 -> 1"


def test_the_first_time_says_that_it_is_the_first(shop: Shop) -> None:
    assert run(shop.features())["cache"]["why"] == "this task has not computed it before"


def test_a_partition_that_somebody_published_since_is_computed_again(shop: Shop) -> None:
    task = shop.features()
    run(task, "run_1")
    shop.publish(9.0, DAYS[0])
    run(shop.features("others", partitions=DAYS[0]), "run_1")
    # The first run's input is back, by name: the table as it was then.
    with_old = shop.features(partitions="2013-01-01..2013-01-02")
    with_old.tables = ["raw@0"]
    again = run(with_old, "run_2")
    assert again["cache"]["decision"] == "miss"
    assert again["cache"]["why"] == (
        "the table rows, partitions 2013-01-01..2013-01-02 was published again since version 1"
    )
    assert shop.compute.verbs == ["features"] * 3


def test_a_cleared_task_publishes_again_what_somebody_replaced_and_a_retry_does_not(shop: Shop) -> None:
    task = shop.features()
    task.tables = ["raw@0"]
    run(task, "run_1")
    shop.publish(9.0, DAYS[0])
    run(shop.features("others", partitions=DAYS[0]), "run_1")
    assert run(task, "run_1", try_number=2)["cache"]["decision"] == "hit"
    cleared = run(task, "run_1", try_number=3, max_tries=2)
    assert cleared["cache"]["decision"] == "miss"
    assert "was published again" in cleared["cache"]["why"]


def test_a_result_document_that_is_gone_is_computed_again(shop: Shop) -> None:
    task = shop.validate()
    run(task, "run_1")
    for path in [*shop.store.paths("runs"), *shop.store.paths("memo/steps")]:
        shop.store.delete(path)
    assert run(task, "run_2")["cache"]["why"] == "its result is not there any more"


# Ingestion


def test_files_that_look_as_before_are_not_read_again(shop: Shop, tmp_path: Path) -> None:
    source = written(tmp_path, "1,2013-01-01\n")
    task = shop.ingest(source)
    assert run(task, "run_1")["table"]["rows"] == 1
    assert run(task, "run_2")["cache"]["decision"] == "hit"
    assert shop.compute.verbs == ["ingest"]
    written(tmp_path, "1,2013-01-01\n2,2013-01-01\n")
    again = run(task, "run_3")
    assert again["table"]["rows"] == 2
    assert again["cache"]["why"] == "the source's files changed"


def test_a_file_that_has_just_been_written_is_always_looked_at(shop: Shop, tmp_path: Path) -> None:
    source = written(tmp_path, "1,2013-01-01\n", settled=False)
    task = shop.ingest(source)
    run(task, "run_1")
    again = run(task, "run_2")
    assert again["cache"] == {"decision": "miss", "why": "looking for new input"}
    assert "already ingested" in again["summary"]


def test_a_skipped_step_is_skipped_by_itself_in_each_run(shop: Shop, tmp_path: Path) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    task = shop.ingest(written(tmp_path, "1,2013-05-05\n", settled=False))
    for run_id in ("run_1", "run_2"):
        with pytest.raises(AirflowSkipException):
            run(task, run_id)
    assert shop.compute.verbs == ["ingest", "ingest"]


def written(folder: Path, rows: str, *, settled: bool = True) -> Path:
    """A file; one that is settled was changed long enough ago to be told from a later change."""
    path = folder / "orders.csv"
    path.write_text(f"id,ds\n{rows}")
    while settled and time.time() - path.stat().st_ctime < 2.1:
        time.sleep(0.1)
    return path


# Modes


def test_rerun_computes_what_is_known_and_replaces_it(shop: Shop) -> None:
    task = shop.validate()
    run(task, "run_1")
    asked = run(shop.validate(cache="rerun"), "run_2")
    assert asked["cache"] == {"decision": "rerun", "why": "asked for by cache='rerun'"}
    later = run(task, "run_3")
    assert later["cache"]["made_by"]["run_id"] == "run_2"
    assert shop.compute.verbs == ["validate", "validate"]


def test_a_retry_of_a_rerun_uses_what_the_rerun_has_made_and_a_clear_does_not(shop: Shop) -> None:
    task = shop.validate(cache="rerun")
    run(task, "run_1")
    run(task, "run_1", try_number=2)
    assert len(shop.compute.launches) == 1
    run(task, "run_1", try_number=3, max_tries=2)
    assert len(shop.compute.launches) == 2


def test_a_parameter_of_the_run_or_the_deployment_may_say_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = shop.validate(cache="{{ params.cache }}")
    run(task, "run_1", params={"cache": ""})
    assert run(task, "run_2", params={"cache": "rerun"})["cache"]["decision"] == "rerun"
    monkeypatch.setenv("AIRFLOW__ML__CACHE", "rerun")
    assert run(task, "run_3", params={"cache": ""})["cache"]["decision"] == "rerun"
    with pytest.raises(ConfigError, match="task 'check' has cache='reuze'") as caught:
        run(task, "run_4", params={"cache": "reuze"})
    assert "did you mean 'reuse'" in str(caught.value)
