"""The champion of now, of a moment and of each partition: by the ledger, on real flights of June 2013."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from model_world import World
from servers import airflow_home_of_its_own, forget_deployment

airflow_home_of_its_own()

import choices  # noqa: E402
from airflow.sdk import DAG  # noqa: E402
from tries import Try  # noqa: E402

from airflow_ml_provider import Champion, Model  # noqa: E402
from airflow_ml_provider.compute import Compute, Exit, Launch  # noqa: E402
from airflow_ml_provider.contract.documents import read_spec  # noqa: E402
from airflow_ml_provider.contract.errors import ConfigError, DataError  # noqa: E402
from airflow_ml_provider.contract.partitions import label_of, start_of  # noqa: E402
from airflow_ml_provider.contract.store import Store, local_path  # noqa: E402
from airflow_ml_provider.operators import PredictOperator  # noqa: E402
from airflow_ml_provider.operators.pins import Pins  # noqa: E402
from airflow_ml_provider.registry.ledger import Entry, Ledger, Outcome  # noqa: E402
from airflow_ml_provider.steps.runner import run_step  # noqa: E402

JUNE = "2013-06-01..2013-06-30"
NAME = "june_delays"
CODE = """
    from dataclasses import replace

    import lightgbm
    import polars as pl
    from flights.features import LATE_ARRIVAL

    # The timetable's features only: a build of them takes a second.
    SCHEDULE = replace(LATE_ARRIVAL, views=(), as_known={})
    NUMBERS = ["departure_minute", "distance", "weekday"]

    def train(rows: pl.DataFrame, label, params):
        data = lightgbm.Dataset(rows.select(NUMBERS).to_numpy(), rows[label].to_numpy(), feature_name=NUMBERS)
        return lightgbm.train({"objective": "binary", "verbose": -1, "num_leaves": 7}, data, params["rounds"])
"""


@dataclass(frozen=True)
class Here(Compute):
    """Runs steps in this process."""

    runs: list[str] = field(default_factory=list, hash=False)

    def run(self, launch: Launch, context: Any) -> Exit:
        self.runs.append(launch.step_key)
        run_step(read_spec(local_path(launch.spec_uri).read_bytes(), source=launch.spec_uri))
        return Exit(0)

    def resume(self, launch: Launch, context: Any, event: Any) -> Exit:
        raise AssertionError("it never defers")

    def cancel(self, launch: Launch) -> None:
        raise AssertionError("nobody ends it")


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory, mlflow_uri: str, flights_raw: Path) -> World:
    """June's flights to predict, and two small models; the second is champion from 15 June on."""
    world = World.at(tmp_path_factory.mktemp("june"), mlflow_uri)
    world.write("june_models", CODE)
    with zipfile.ZipFile(flights_raw / "flights.csv.zip") as archive:
        frame = pl.read_csv(archive.read("flights.csv"), null_values="NA", infer_schema_length=None)
    frame = frame.with_columns(
        pl.col("time_hour").str.to_datetime(time_unit="us", time_zone="UTC"),
        ds=pl.date("year", "month", "day").cast(pl.String),
    ).filter(pl.col("ds").is_between(pl.lit("2013-05-25"), pl.lit("2013-06-30")))
    folder = local_path(Store(world.store).table_uri("flights"))
    frame.write_delta(str(folder), delta_write_options={"partition_by": ["ds"]})
    for table, partitions, labels in (
        ("june_training", "2013-05-25..2013-06-12", True), ("june_to_predict", JUNE, False)
    ):  # fmt: skip
        arguments = {
            "features": "june_models:SCHEDULE", "tables": [{"name": "flights"}], "labels": labels,
            "publish": {"name": table}, "partitions": partitions,
        }  # fmt: skip
        world.done("features", arguments)
    for rounds, partitions in ((3, "2013-05-25..2013-05-31"), (9, "2013-06-01..2013-06-12")):
        given = {"table": {"name": "june_training"}, "params": {"rounds": rounds}, "partitions": partitions}
        world.train(NAME, "june_models:train", arguments=given)
    world.client.set_registered_model_alias(NAME, "champion", "2")
    promoted(world, 1, "2013-05-31T12:00:00Z")
    promoted(world, 2, "2013-06-15T00:00:00Z")
    return world


def promoted(world: World, version: int | None, effective: str, *, name: str = NAME) -> None:
    """A move of the champion as the ledger keeps it."""
    ledger = Ledger(Store(world.store), name)
    number, now = len(ledger.entries()) + 1, datetime.now(UTC).isoformat(timespec="milliseconds")
    entry = Entry(number, name, "champion", version, None, now, "ada", "better", "", "", f"step{number}")
    fields = {"kind": "promotion" if version else "external", "effective": effective}
    assert ledger.append(Entry(**{**_fields(entry), **fields}))
    assert ledger.conclude(Outcome(number, True, now, "ada", now))


def _fields(entry: Entry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in entry.__struct_fields__}


@pytest.fixture(autouse=True)
def deployment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flights' store and a connection to the real MLflow."""
    if "flights" not in request.fixturenames:
        return
    world: World = request.getfixturevalue("flights")
    forget_deployment(monkeypatch)
    monkeypatch.setenv("AIRFLOW__ML__STORE", world.store)
    connection = {"conn_type": "mlflow", "host": world.mlflow}
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps(connection))


def task_of(model: Any, publish: str = "june_predictions", partitions: str = JUNE, **more: Any) -> Any:
    with DAG("june"):
        return PredictOperator(
            task_id="predict",
            model=model,
            table="june_to_predict",
            publish=publish,
            partitions=partitions,
            **more,
        )


def arguments_of(world: World, model: Any, partitions: str = JUNE, **more: Any) -> Any:
    return task_of(model, partitions=partitions, **more).arguments(
        Pins(Store(world.store), wanted_by="task 'predict'"), {}
    )


def test_a_backfill_of_june_uses_each_days_champion_in_one_mode_and_one_model_in_the_other(
    flights: World,
) -> None:
    compute = Here()
    each_day = task_of(Champion(NAME, as_of="partition"), "by_day", compute=compute)
    output = Try(each_day, run_id="each_day").to_the_end()
    rows, raw = flights.table("by_day"), flights.table("flights").filter(pl.col("ds") >= "2013-06-01")
    assert output["table"]["version"] == 1
    assert rows.height == raw.height == 28_243
    versions = rows.group_by("ds", "model_version", "model_selection").len().sort("ds")
    by_day = raw.group_by("ds").len().sort("ds")["len"]
    assert versions.rows() == [
        (
            f"2013-06-{day:02}",
            1 if day < 15 else 2,
            f"champion as of 2013-06-{day:02}T00:00:00Z",
            by_day[day - 1],
        )
        for day in range(1, 31)
    ]
    assert [(one["version"], one["partitions"], one["rows"]) for one in output["verdict"]["models"]] == [
        (1, "2013-06-01..2013-06-14", by_day.head(14).sum()),
        (2, "2013-06-15..2013-06-30", by_day.tail(16).sum()),
    ]
    now = task_of(Champion(NAME), "by_now", compute=compute)
    Try(now, run_id="now").to_the_end()
    of_now = flights.table("by_now")
    assert of_now.select("model_version", "model_selection").unique().rows() == [(2, "champion now")]
    late = pl.col("ds") >= "2013-06-15"
    one, other = (frame.filter(late).sort("flight_id")["score"] for frame in (rows, of_now))
    assert one.equals(other)
    early = pl.col("ds") < "2013-06-15"
    one, other = (frame.filter(early).sort("flight_id")["score"] for frame in (rows, of_now))
    assert not one.equals(other)

    # The same again is a hit, and so it is after a promotion: but not for the champion of now.
    promoted(flights, 1, "2014-01-01T00:00:00Z")
    flights.client.set_registered_model_alias(NAME, "champion", "1")
    try:
        Try(each_day, 2, "each_day").to_the_end()
        assert len(compute.runs) == 2
        Try(now, 2, "now").to_the_end()
        assert len(compute.runs) == 3
    finally:
        flights.client.set_registered_model_alias(NAME, "champion", "2")
    assert flights.table("by_now")["model_version"].unique().to_list() == [1]


@pytest.mark.parametrize(
    ("moment", "version", "said"),
    [
        ("2013-06-14T23:59:59Z", 1, "2013-06-14T23:59:59Z"),
        ("2013-06-15", 2, "2013-06-15T00:00:00Z"),
        ("2013-06-15T01:00:00+02:00", 1, "2013-06-14T23:00:00Z"),
        ("{{ '2013-06-' ~ 15 }}", 2, "2013-06-15T00:00:00Z"),
    ],
)
def test_the_champion_of_a_moment_is_pinned(flights: World, moment: str, version: int, said: str) -> None:
    found = arguments_of(flights, Champion(NAME, as_of=moment), "2013-06-20")
    assert (found.model, found.selection) == (
        Model(NAME, version=version), f"champion as of {said}"
    )  # fmt: skip


def test_hours_and_months_begin_at_their_first_moment(flights: World) -> None:
    hours = arguments_of(
        flights, Champion(NAME, as_of="partition"), "2013-06-14T23,2013-06-15T00,2013-06-15T01"
    )
    assert [(each.model.version, each.partitions) for each in hours.by_partition] == [
        (1, "2013-06-14T23"), (2, "2013-06-15T00,2013-06-15T01")
    ]  # fmt: skip
    months = arguments_of(flights, Champion(NAME, as_of="partition"), "2013-06,2013-07")
    assert [(each.model.version, each.partitions) for each in months.by_partition] == [
        (1, "2013-06"), (2, "2013-07")
    ]  # fmt: skip


def test_before_the_first_champion_it_says_from_when_there_is_one(flights: World) -> None:
    with pytest.raises(
        DataError, match="no champion at 2013-05-31T00:00:00Z: the first is from 2013-05-31T12:00:00Z"
    ):
        arguments_of(flights, Champion(NAME, as_of="partition"), "2013-05-31..2013-06-02")
    with pytest.raises(DataError, match="its ledger is empty"):
        arguments_of(flights, Champion("nobodys", as_of="2013-06-01"))


@pytest.mark.parametrize(
    ("partitions", "message"),
    [("EWR,JFK", "'EWR' is no time, so it has no start"), ("", "for no partitions, so there is no moment")],
)
def test_partitions_that_have_no_start_are_refused(flights: World, partitions: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        arguments_of(flights, Champion(NAME, as_of="partition"), partitions)


def test_a_moment_that_is_none_is_refused_when_it_is_written() -> None:
    with pytest.raises(ConfigError, match="'last week' is no time"):
        Champion("flight_delays", as_of="last week")


def test_a_version_of_the_ledger_that_mlflow_has_no_more_is_replaced_by_no_other(flights: World) -> None:
    promoted(flights, 5, "2013-06-01T00:00:00Z", name="vanished")
    with pytest.raises(DataError, match=r"version 5 was champion of 'vanished' .* no such version any more"):
        arguments_of(flights, Champion("vanished", as_of="partition"))


def test_a_moment_when_the_alias_was_deleted_has_no_champion(flights: World) -> None:
    promoted(flights, 1, "2013-06-01T00:00:00Z", name="orphaned")
    promoted(flights, None, "2013-06-10T00:00:00Z", name="orphaned")
    with pytest.raises(
        DataError, match=r"had no champion at 2013-06-12T00:00:00Z: .* had been deleted by then"
    ):
        arguments_of(flights, Champion("orphaned", as_of="2013-06-12"))


def test_a_deleted_version_and_an_alias_that_points_nowhere_predict_nothing(flights: World) -> None:
    client = flights.client
    client.create_registered_model("fleeting")
    client.create_model_version("fleeting", "s3://nowhere/model")
    client.set_registered_model_alias("fleeting", "champion", "1")
    client.delete_model_version("fleeting", "1")
    with pytest.raises(DataError, match="has no alias 'champion' of the model 'fleeting'"):
        arguments_of(flights, Champion("fleeting"))
    with pytest.raises(DataError, match="there is no model fleeting/1 in MLflow"):
        Try(task_of(Model("fleeting", version=1), "fleeting", compute=Here())).to_the_end()
    assert not local_path(Store(flights.store).table_uri("fleeting")).exists()


def test_a_split_pins_what_its_aliases_and_versions_name(flights: World) -> None:
    found = arguments_of(flights, Model(NAME), split={"champion": 0.9, 1: 0.1}, salt="exp1")
    assert [(each.name, each.share, each.model.version, each.selection) for each in found.split] == [
        ("1", 0.1, 1, "version 1 10 % of keys"), ("champion", 0.9, 2, "champion 90 % of keys")
    ]  # fmt: skip
    with pytest.raises(DataError, match="has no alias 'contender'"):
        arguments_of(flights, Model(NAME), split={"champion": 0.9, "contender": 0.1})
    for model, message in (
        (f"{NAME}/1", "says which versions score"),
        (Champion(NAME, "partition"), "as they are now"),
    ):
        with pytest.raises(ConfigError, match=message):
            arguments_of(flights, model, split={"champion": 0.9, 1: 0.1})


def test_challengers_are_pinned_and_one_that_is_not_there_is_left_to_the_step(flights: World) -> None:
    found = arguments_of(flights, Model(NAME), challengers=[f"{NAME}@contender", Model(NAME, version=1)])
    assert found.challengers == (Model(NAME, "contender"), Model(NAME, version=1))
    assert arguments_of(flights, Model(NAME), challengers=f"{NAME}/1").challengers == (
        Model(NAME, version=1),
    )


def test_the_documented_tasks_choose_what_they_say(flights: World) -> None:
    pins = Pins(Store(flights.store), wanted_by="task 'predict'")
    found = {
        task.task_id: task.prepare_for_execution().arguments(pins, {})
        for task in choices.dag.tasks
        if isinstance(task, PredictOperator)
    }
    assert {name: arguments.selection for name, arguments in found.items()} == {
        "now": "champion now",
        "each_day": "champion as of each partition",
        "of_a_moment": "champion as of 2013-06-20T06:00:00Z",
        "fixed": "version 1",
        "beside": "champion now",
        "shared": "version 1 10 % of keys; champion 90 % of keys",
    }
    assert [model.version for model in found["beside"].challengers] == [2, 1]
    assert found["beside"].explain == 5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"split": {"champion": 0.5}}, "needs two variants"),
        ({"explain": -1}, "explain is -1"),
        ({"salt": "exp1"}, "no meaning without split="),
    ],
)
def test_what_cannot_be_is_refused_when_the_dag_is_written(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        task_of(Model(NAME), **given)


def test_only_a_predict_step_takes_the_champion_of_a_moment() -> None:
    from airflow_ml_provider.contract.models import as_model

    assert as_model(Champion("delays", alias="best")) == Model("delays", "best")
    with pytest.raises(ConfigError, match="only a predict step"):
        as_model(Champion("delays", as_of="partition"), wanted_by="an evaluate step")


def test_partitions_are_named_as_short_as_they_can_be() -> None:
    days = [f"2013-06-{day:02}" for day in range(1, 5)]
    assert label_of(days) == "2013-06-01..2013-06-04"
    assert label_of([days[0], days[2]]) == "2013-06-01,2013-06-03"
    assert label_of(["EWR", "JFK", "LGA"]) == "EWR,JFK,LGA"
    assert label_of(["20130601", "20130602", "20130603"]) == "20130601,20130602,20130603"


@pytest.mark.parametrize(
    ("partition", "start"),
    [
        ("2013", (2013, 1, 1, 0)), ("2013-06", (2013, 6, 1, 0)), ("2013-06-05", (2013, 6, 5, 0)),
        ("2013-W23", (2013, 6, 3, 0)), ("2013-06-05T06", (2013, 6, 5, 6)), ("2013-06-05 06:00", (2013, 6, 5, 6)),
        ("2013-06-05T00:00:00+02:00", (2013, 6, 4, 22)),
    ],
)  # fmt: skip
def test_a_partition_begins_at_its_first_moment_in_utc(
    partition: str, start: tuple[int, int, int, int]
) -> None:
    year, month, day, hour = start
    assert start_of(partition) == datetime(year, month, day, hour, tzinfo=UTC)
