"""What every step operator does around its step."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowSkipException
from control_plane import FakeCompute, Wire, context_of, run_task

from airflow_ml_provider import Champion, Column, Gate, Model, Schema, Table
from airflow_ml_provider.compute import Exit
from airflow_ml_provider.contract.errors import (
    ConfigError,
    DataError,
    InfrastructureError,
    MLError,
    PreemptedError,
    TransientError,
    UserCodeError,
)
from airflow_ml_provider.contract.identity import step_key
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.operators import (
    EvaluateOperator,
    FeaturesOperator,
    IngestOperator,
    MonitorOperator,
    PredictOperator,
    PromoteOperator,
    TrainOperator,
    ValidateOperator,
)

Connect = Callable[..., None]
KEY = step_key("a_dag", "rows", "manual__1")


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A folder of user code with one feature set."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "mine.py").write_text("SET = 1\nsuite = 2\n")
    return folder


@pytest.fixture
def compute() -> FakeCompute:
    return FakeCompute()


@pytest.fixture
def rows(code: Path, compute: FakeCompute, deployment: Store) -> FeaturesOperator:
    """A task over the tables raw (version 4) and weather (version 7)."""
    publish(deployment, "raw", 4)
    publish(deployment, "weather", 7)
    with DAG("a_dag"):
        return FeaturesOperator(
            task_id="rows", features="mine:SET", tables=["raw", Table("weather", version=2)], publish="rows",
            partitions="{{ params.day }}", code=str(code), compute=compute, seed=7,
        )  # fmt: skip


def publish(store: Store, table: str, *versions: int) -> None:
    for version in versions:
        store.write(f"tables/{table}/_delta_log/{version:020}.json", b"{}")


def run_rows(task: FeaturesOperator, **given: Any) -> dict[str, Any]:
    return run_task(task, params={"day": "2013-06-01"}, **given)


# What the spec holds


def test_the_spec_pins_tables_renders_templates_and_names_the_run(
    rows: FeaturesOperator, compute: FakeCompute, code: Path, deployment: Store
) -> None:
    run_rows(rows, partition_key="2013-06-01", user="ada", try_number=3)
    spec = compute.spec()
    assert spec.arguments["tables"] == [
        {"name": "raw", "partition_by": "ds", "version": 4},
        {"name": "weather", "partition_by": "ds", "version": 2},
    ]
    assert spec.arguments["partitions"] == "2013-06-01"
    assert (spec.verb, spec.store, spec.seed, spec.step_key) == ("features", deployment.uri, 7, KEY)
    assert spec.code.roots == (str(code),)
    assert len(spec.code.digest) == 64
    assert spec.tracking.experiment == "a_dag"
    assert spec.run.partition_key == "2013-06-01"
    assert spec.run.triggered_by == "ada"
    assert spec.run.url == "http://airflow/dags/a_dag/runs/manual__1/tasks/rows"


def test_the_launch_names_the_step_and_where_its_spec_is(
    rows: FeaturesOperator, compute: FakeCompute, code: Path, deployment: Store
) -> None:
    run_rows(rows)
    [launch] = compute.launches
    assert (launch.step_key, launch.verb, launch.code_roots) == (KEY, "features", (str(code),))
    assert launch.spec_uri == deployment.run_uri(KEY, "spec.json")


def test_a_mapped_task_instance_is_a_step_of_its_own(rows: FeaturesOperator, compute: FakeCompute) -> None:
    run_rows(rows, map_index=0)
    run_task(rows, params={"day": "2013-06-02"}, map_index=1)
    first, second = compute.launches
    assert first.step_key != second.step_key


def test_a_missing_table_says_what_to_run_first(code: Path, compute: FakeCompute) -> None:
    with DAG("a_dag"):
        task = ValidateOperator(
            task_id="check", table="flights", suite="mine:suite", code=code, compute=compute
        )
    with pytest.raises(
        DataError, match="task 'check' reads the table 'flights', and there is none"
    ) as caught:
        run_task(task)
    assert "run the step that publishes 'flights' first" in str(caught.value)
    assert not compute.launches


def test_code_that_does_not_exist_is_refused_before_anything_runs(code: Path, compute: FakeCompute) -> None:
    with DAG("a_dag"):
        task = FeaturesOperator(
            task_id="rows", features="mien:SET", tables=[], publish="rows", code=code, compute=compute
        )
    with pytest.raises(UserCodeError, match="there is no module 'mien'") as caught:
        run_task(task)
    assert "did you mean 'mine'" in str(caught.value)
    with DAG("another_dag"):
        task = FeaturesOperator(
            task_id="rows", features="mine:SET", tables=[], publish="rows", code="nowhere"
        )
    with pytest.raises(ConfigError, match=r"code folder .*nowhere does not exist"):
        run_task(task)


def test_credentials_reach_the_launch_and_nothing_that_is_stored(
    rows: FeaturesOperator,
    compute: FakeCompute,
    mlflow_connection: Connect,
    deployment: Store,
    capfd: pytest.CaptureFixture[str],
) -> None:
    mlflow_connection("http://mlflow", login="ada", password="s3cret")
    output = run_rows(rows)
    [launch] = compute.launches
    assert launch.credentials["MLFLOW_TRACKING_PASSWORD"] == "s3cret"
    assert compute.spec().tracking.uri == "http://mlflow"
    stored = [deployment.read(path) for path in deployment.paths("runs")]
    for place in (*stored, json.dumps(output), *capfd.readouterr(), repr(launch), repr(rows)):
        assert "s3cret" not in str(place)


def test_a_json_suite_is_part_of_the_code(compute: FakeCompute, code: Path, deployment: Store) -> None:
    publish(deployment, "raw", 0)
    with DAG("a_dag"):
        task = ValidateOperator(task_id="v", table="raw", suite="suite.json", code=code, compute=compute)
    with pytest.raises(ConfigError, match=r"there is no file 'suite\.json' below"):
        run_task(task)
    digests = []
    for content in ("{}", "[]"):
        (code / "suite.json").write_text(content)
        run_task(task)
        digests.append(compute.spec().code.digest)
    assert len(set(digests)) == 2


# Hits and misses


def test_a_result_of_exactly_this_step_is_reused(
    rows: FeaturesOperator, compute: FakeCompute, capfd: pytest.CaptureFixture[str]
) -> None:
    first = run_rows(rows)
    again = run_rows(rows, try_number=2)
    assert again.pop("cache")["decision"] == "hit"
    assert first.pop("cache")["decision"] == "miss"
    assert again == first
    assert len(compute.launches) == 1
    assert f"hit: step {KEY}" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("table", "miss: table raw 4 -> 5"),
        ("code", "miss: code changed (mine.py)"),
        ("seed", "miss: seed: 7 -> 8"),
        ("place", "miss: image: null -> two"),
        ("partitions", "miss: partitions: 2013-06-01 -> 2013-06-02"),
    ],
)
def test_a_change_runs_the_step_again_and_is_named(
    rows: FeaturesOperator,
    compute: FakeCompute,
    deployment: Store,
    code: Path,
    capfd: pytest.CaptureFixture[str],
    change: str,
    said: str,
) -> None:
    run_rows(rows)
    day = "2013-06-01"
    if change == "table":
        publish(deployment, "raw", 5)
    elif change == "code":
        (code / "mine.py").write_text("SET = 2\n")
    elif change == "seed":
        rows.seed = 8
    elif change == "place":
        rows.compute = FakeCompute(launches=compute.launches, place="two")
    else:
        day = "2013-06-02"
    run_task(rows, params={"day": day})
    assert len(compute.launches) == 2
    assert said in capfd.readouterr().out


def test_a_failed_try_is_tried_again(rows: FeaturesOperator, compute: FakeCompute) -> None:
    compute.ends_with.update(status="failed", failure={"kind": "transient", "error": "X", "message": "busy"})
    with pytest.raises(TransientError):
        run_rows(rows)
    compute.ends_with.clear()
    assert run_rows(rows, try_number=2)["status"] == "success"


def test_a_result_that_cannot_be_read_is_unknown_and_never_resubmitted(
    rows: FeaturesOperator, compute: FakeCompute, deployment: Store
) -> None:
    deployment.write(f"runs/{KEY}/result.json", b"{half a docu")
    with pytest.raises(TransientError, match="it is unknown what the step did") as caught:
        run_rows(rows)
    assert f"delete {deployment.run_uri(KEY, 'result.json')}" in str(caught.value)
    assert not compute.launches


def test_a_result_of_another_protocol_is_refused_with_both_numbers(
    rows: FeaturesOperator, deployment: Store
) -> None:
    deployment.write(f"runs/{KEY}/result.json", b'{"protocol": 2}')
    with pytest.raises(ConfigError, match="protocol 2; this installation speaks protocol 1"):
        run_rows(rows)


# Belief


def test_a_valid_result_is_believed_before_the_exit(rows: FeaturesOperator) -> None:
    rows.compute = FakeCompute(exit=Exit(-9, InfrastructureError("killed")))
    assert run_rows(rows)["status"] == "success"


def test_without_a_result_the_place_is_believed(rows: FeaturesOperator) -> None:
    rows.compute = FakeCompute(ends_with=None, exit=Exit(143, PreemptedError("the node was drained")))
    with pytest.raises(PreemptedError, match="the node was drained"):
        run_rows(rows)


def test_a_result_of_other_inputs_is_not_believed(rows: FeaturesOperator) -> None:
    rows.compute = FakeCompute(ends_with={"fingerprint": "of something else"}, exit=Exit(70))
    with pytest.raises(InfrastructureError, match="exit code 70 and left no result"):
        run_rows(rows)


@pytest.mark.parametrize(
    ("number", "kind"), [(64, ConfigError), (66, DataError), (75, TransientError), (0, InfrastructureError)]
)
def test_the_exit_code_is_believed_last(rows: FeaturesOperator, number: int, kind: type[MLError]) -> None:
    rows.compute = FakeCompute(ends_with=None, exit=Exit(number, last_lines="its last words"))
    with pytest.raises(
        kind, match=f"ended with exit code {number} and left no result; it ended with:\nits last"
    ):
        run_rows(rows)


# How a step ends


def test_a_failure_keeps_its_kind_its_parts_and_the_end_of_the_users_traceback(
    rows: FeaturesOperator, compute: FakeCompute
) -> None:
    error = UserCodeError("mine:SET raised ValueError: no\n  wind: at all", kept="the table", todo="look")
    compute.ends_with.update(
        status="failed",
        failure={
            "kind": "user",
            "error": "X",
            "message": str(error),
            "traceback": "Traceback:\n  File mine.py",
        },
    )
    with pytest.raises(UserCodeError) as caught:
        run_rows(rows)
    assert str(caught.value) == str(error)
    assert (caught.value.kept, caught.value.todo) == ("the table", "look")
    assert "File mine.py" in caught.value.__notes__[0]


def test_a_skipped_step_skips_the_task_with_its_reason(rows: FeaturesOperator, compute: FakeCompute) -> None:
    compute.ends_with.update(status="skipped", reason="no flights on 2013-06-01")
    with pytest.raises(AirflowSkipException, match="no flights on 2013-06-01"):
        run_rows(rows)


def test_warnings_of_the_step_are_in_the_task_log(
    rows: FeaturesOperator, compute: FakeCompute, capfd: pytest.CaptureFixture[str]
) -> None:
    compute.ends_with["warnings"] = ["the feature delay by itself predicts the label"]
    run_rows(rows)
    assert "the feature delay by itself predicts the label" in capfd.readouterr().out


def test_xcom_gets_references_and_no_inner_facts(rows: FeaturesOperator, compute: FakeCompute) -> None:
    compute.ends_with["table"] = {"name": "rows", "version": 3, "uri": "file:///rows", "rows": 9}
    output = run_rows(rows)
    assert output["table"] == {"name": "rows", "version": 3, "uri": "file:///rows", "rows": 9}
    assert not {"parts", "failure"} & set(output)


def test_killing_the_task_cancels_the_step(rows: FeaturesOperator, compute: FakeCompute) -> None:
    rows.on_kill()
    assert compute.cancelled == []
    context = context_of(rows, params={"day": "2013-06-01"})
    run_task(rows, context)
    context["task"].on_kill()
    assert compute.cancelled == [KEY]


def test_a_deferred_task_carries_on_from_the_spec_in_the_store(
    rows: FeaturesOperator, compute: FakeCompute, deployment: Store
) -> None:
    context = context_of(rows, params={"day": "2013-06-01"})
    with pytest.raises(InfrastructureError, match="the spec that was started is gone"):
        rows.execute_complete(context, {"status": "done"})
    run_task(rows, context)
    publish(deployment, "raw", 5)
    output = rows.execute_complete(context, {"status": "done"})
    assert output["fingerprint"] == compute.spec().fingerprint


# Upstream outputs


def test_an_upstream_output_is_the_order_and_the_version(
    code: Path, compute: FakeCompute, deployment: Store
) -> None:
    publish(deployment, "weather", 7)
    with DAG("a_dag"):
        checked = ValidateOperator(task_id="check", table="raw", suite="mine:suite")
        task = FeaturesOperator(
            task_id="rows", features="mine:SET", tables=[checked.output, Table("weather")], publish="rows",
            code=code, compute=compute,
        )  # fmt: skip
    assert task.upstream_task_ids == {"check"}
    run_task(task, outputs={"check": {"verb": "validate", "table": {"name": "raw", "version": 41}}})
    assert [table["version"] for table in compute.spec().arguments["tables"]] == [41, 7]


def test_an_upstream_step_without_a_table_is_refused_by_name(code: Path, deployment: Store) -> None:
    with DAG("a_dag"):
        judged = EvaluateOperator(task_id="judge", candidate="m/1", table="rows")
        task = ValidateOperator(task_id="check", table=judged.output, suite="mine:suite", code=code)
    with pytest.raises(ConfigError, match="task 'check' was given the output of a evaluate step"):
        run_task(task, outputs={"judge": {"verb": "evaluate"}})


def test_one_table_alone_is_a_list_of_it(code: Path, compute: FakeCompute, deployment: Store) -> None:
    publish(deployment, "raw", 4)
    with DAG("a_dag"):
        task = FeaturesOperator(
            task_id="rows", features="mine:SET", tables="raw", publish="rows", code=code, compute=compute
        )
    run_task(task)
    assert [table["name"] for table in compute.spec().arguments["tables"]] == ["raw"]


# Models


def test_predict_pins_the_version_that_the_alias_names(
    code: Path, compute: FakeCompute, deployment: Store, wire: Wire, mlflow_connection: Connect
) -> None:
    publish(deployment, "rows", 0)
    mlflow_connection(wire.url)
    wire.alias(12)
    with DAG("a_dag"):
        task = PredictOperator(
            task_id="predict", model=Model("flight_delays"), table="rows", publish="scores", compute=compute
        )
    run_task(task)
    assert compute.spec().arguments["model"] == {"name": "flight_delays", "alias": "champion", "version": 12}
    wire.alias(13)
    run_task(task)
    assert len(compute.launches) == 2


def test_one_challenger_may_be_given_as_a_champion_of_now(
    deployment: Store, wire: Wire, mlflow_connection: Connect, compute: FakeCompute
) -> None:
    publish(deployment, "rows", 0)
    mlflow_connection(wire.url)
    wire.alias(12)
    with DAG("a_dag"):
        task = PredictOperator(
            task_id="predict", model="flight_delays/3", table="rows", publish="scores", compute=compute,
            challengers=Champion("flight_delays", alias="contender"),
        )  # fmt: skip
    run_task(task)
    assert compute.spec().arguments["challengers"] == [
        {"name": "flight_delays", "alias": "contender", "version": 12}
    ]


def test_predict_without_a_champion_says_so(
    deployment: Store, wire: Wire, mlflow_connection: Connect, compute: FakeCompute
) -> None:
    publish(deployment, "rows", 0)
    mlflow_connection(wire.url)
    wire.no_alias()
    with DAG("a_dag"):
        task = PredictOperator(task_id="p", model="flight_delays", table="rows", publish="s", compute=compute)
    with pytest.raises(DataError, match="has no alias 'champion' of the model 'flight_delays'"):
        run_task(task)


def test_predict_without_a_connection_says_which_one_to_add(deployment: Store) -> None:
    publish(deployment, "rows", 0)
    with DAG("a_dag"):
        task = PredictOperator(task_id="p", model="flight_delays", table="rows", publish="s")
    with pytest.raises(ConfigError, match="there is no Airflow connection 'mlflow_default'"):
        run_task(task)


def test_a_new_champion_makes_the_same_evaluation_another_one(
    deployment: Store, wire: Wire, mlflow_connection: Connect, compute: FakeCompute
) -> None:
    publish(deployment, "rows", 0)
    mlflow_connection(wire.url)
    with DAG("a_dag"):
        task = EvaluateOperator(
            task_id="e", candidate="flight_delays/5", table="rows", gates=[Gate("roc_auc", at_least=0.7)],
            slices=["origin"], compute=compute,
        )  # fmt: skip
    wire.no_alias()
    run_task(task)
    run_task(task)
    assert len(compute.launches) == 1
    wire.alias(4)
    run_task(task)
    assert len(compute.launches) == 2
    assert compute.spec().arguments["champion"]["version"] == 4


def test_promote_takes_the_verdict_out_of_the_output_and_names_who_asked(
    wire: Wire, mlflow_connection: Connect, compute: FakeCompute
) -> None:
    mlflow_connection(wire.url)
    wire.no_alias()
    with DAG("a_dag"):
        judged = EvaluateOperator(task_id="judge", candidate="flight_delays@challenger", table="rows")
        task = PromoteOperator(task_id="promote", verdict=judged.output, reason="better", compute=compute)
    model = {"name": "flight_delays", "version": 5}
    output = {"verb": "evaluate", "model": model, "verdict": {"promote": True}}
    run_task(task, outputs={"judge": output}, user="ada")
    assert compute.spec().arguments == {
        "verdict": {"promote": True}, "alias": "champion", "reason": "better", "promoted_by": "ada",
        "approval": {}, "effective": "",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="task 'promote' was given no verdict"):
        run_task(task, outputs={"judge": {"verb": "train", "model": model}})


# Arguments that cannot be


INGEST: dict[str, Any] = {"source": "x", "schema": Schema((Column("a"),)), "publish": "t"}
ON_ROWS: dict[str, Any] = {"table": "t"}


@pytest.mark.parametrize(
    ("operator", "given", "said"),
    [
        (IngestOperator, {**INGEST, "format": "xml"}, "unknown format 'xml'"),
        (IngestOperator, {**INGEST, "max_bad_rows": -1}, "max_bad_rows is -1"),
        (IngestOperator, {**INGEST, "publish": "t@3"}, "a version that exists never changes"),
        (IngestOperator, {**INGEST, "publish": "{{ params.t }}"}, "cannot publish to '{{ params.t }}'"),
        (
            TrainOperator,
            {**ON_ROWS, "function": "m:f", "model": "m", "trusted_types": "a.B"},
            "the text 'a.B'",
        ),
        (EvaluateOperator, {**ON_ROWS, "candidate": "m", "gates": ["roc_auc"]}, "'roc_auc' is not a gate"),
        (EvaluateOperator, {**ON_ROWS, "candidate": "m", "slices": "origin"}, "the text 'origin'"),
        (EvaluateOperator, {**ON_ROWS, "candidate": "m", "resamples": 0}, "resamples is 0"),
        (PredictOperator, {**ON_ROWS, "model": "m", "publish": "p", "batch_rows": 0}, "batch_rows is 0"),
        (MonitorOperator, {"predictions": "p", "rows": "r", "ignore": "month"}, "the text 'month'"),
        (MonitorOperator, {"predictions": "p", "rows": "r", "max_drifted_share": 50}, "share is 50"),
    ],
)
def test_scalars_are_checked_when_the_dag_is_written(operator: Any, given: dict[str, Any], said: str) -> None:
    with DAG("a_dag"), pytest.raises(ConfigError, match=re.escape(said)) as caught:
        operator(task_id="wrong", **given)
    assert caught.value.todo


def test_params_on_a_train_operator_are_refused_since_airflow_would_swallow_them() -> None:
    with DAG("a_dag", params={"rounds": 300}):
        TrainOperator(task_id="a", function="m:f", table="t", model="m", hyperparameters={"rounds": 5})
        with pytest.raises(ConfigError, match=r"params= \(rounds\)") as caught:
            TrainOperator(task_id="b", function="m:f", table="t", model="m", params={"rounds": 5})
    assert "hyperparameters=" in str(caught.value)


def test_hyperparameters_are_rendered_and_reach_the_step(
    code: Path, compute: FakeCompute, deployment: Store
) -> None:
    publish(deployment, "rows", 0)
    with DAG("a_dag", render_template_as_native_obj=True):
        task = TrainOperator(
            task_id="train", function="mine:SET", table="rows", model="flight_delays", code=code,
            compute=compute, hyperparameters={"leaves": "{{ params.leaves }}", "fixed": 1},
        )  # fmt: skip
    context = context_of(task, params={"leaves": 63})
    running = task.prepare_for_execution()
    running.render_template_fields(context, task.dag.get_template_env())
    running.execute(context)
    assert compute.spec().arguments["params"] == {"leaves": 63, "fixed": 1}
    assert compute.spec().arguments["model"]["alias"] == "challenger"


@pytest.mark.parametrize(("known_at", "runs"), [("", 2), ("2026-01-01T00:00:00Z", 1)])
def test_a_live_evaluation_looks_again_for_labels_unless_it_says_until_when(
    compute: FakeCompute,
    deployment: Store,
    wire: Wire,
    mlflow_connection: Connect,
    known_at: str,
    runs: int,
) -> None:
    mlflow_connection(wire.url)
    wire.alias(4)
    publish(deployment, "scores", 1)
    with DAG("a_dag"):
        task = EvaluateOperator(
            task_id="judge", candidate="flight_delays@challenger", predictions="scores", known_at=known_at,
            compute=compute,
        )  # fmt: skip
    run_task(task)
    run_task(task)
    assert len(compute.launches) == runs
