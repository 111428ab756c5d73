"""A step as a SparkApplication: there is one, its driver is the step, and both are gone in the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from on_cluster import IMAGE, NAMESPACE, PLAIN, World, fired
from test_code_and_credentials import PLANTED, READS_IT, permission_of
from test_pods import RAISES, SLOW, finish, running
from tries import ended_by_a_user

from airflow_ml_provider.compute import KubernetesCompute, Launch, SparkKubernetesCompute
from airflow_ml_provider.compute.permissions import needed_by
from airflow_ml_provider.compute.spark_application import application_document, application_name
from airflow_ml_provider.contract.errors import (
    ConfigError,
    InfrastructureError,
    PreemptedError,
    TransientError,
    UserCodeError,
)
from airflow_ml_provider.operators.fleet_stages import has_jobs
from airflow_ml_provider.steps import spark_driver

LAUNCH = Launch("2013-flights-predict-0011223344556677", "predict", "s3://bucket/runs/x/spec.json")
CLUSTER = SparkKubernetesCompute(
    image="spark:4",
    service_account="spark",
    resources={"cpu": 2, "memory": "8Gi"},
    executors=20,
    executor_resources={"cpu": 4, "memory": "16Gi", "nvidia.com/gpu": 1},
    conf={"spark.sql.shuffle.partitions": 400},
    environment={"REGION": "eu"},
    secrets=("store",),
)


def on_spark(world: World, code: str = PLAIN, *, compute: dict[str, Any] | None = None, **more: Any) -> Any:
    """A task of the world's, on Spark."""
    world.cluster.service_accounts.add((NAMESPACE, "spark"))
    task = world.task(code, **more)
    where = {"image": IMAGE, "service_account": "spark", "start_timeout": 20, **(compute or {})}
    task.compute = SparkKubernetesCompute(application=str(spark_driver.__file__), **where)
    return task


def applications(world: World) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = world.cluster.all("sparkapplications", NAMESPACE)
    return found


def applications_ever(world: World) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = world.cluster.ever("sparkapplications")
    return found


def nothing_is_left(world: World) -> None:
    world.cluster.until(lambda: not world.cluster.pods(NAMESPACE) and not applications(world))


def test_driver_and_executors_are_the_steps_pod_in_sparks_image() -> None:
    document = application_document(CLUSTER.but({"image_pull_policy": "Always"}), LAUNCH, deadline=600)
    spec = document["spec"]
    assert (spec["image"], spec["imagePullPolicy"]) == ("spark:4", "Always")
    assert document["metadata"]["name"] == application_name(LAUNCH)
    assert application_name(LAUNCH)[0].isalpha(), "the Spark operator refuses names that begin with a digit"
    assert len(application_name(LAUNCH) + "-driver") <= 63
    assert spec["arguments"] == ["predict", "--spec", LAUNCH.spec_uri]
    assert spec["mainApplicationFile"].startswith("local:///")
    assert spec["restartPolicy"] == {"type": "Never"}
    assert spec["sparkConf"] == {"spark.sql.shuffle.partitions": "400"}
    driver, executor = spec["driver"], spec["executor"]
    assert (driver["memory"], driver["memoryOverhead"], driver["cores"]) == ("4096m", "4096m", 2)
    assert (executor["memory"], executor["memoryOverhead"], executor["instances"]) == ("8192m", "8192m", 20)
    assert driver["template"]["spec"]["automountServiceAccountToken"] is True
    assert executor["template"]["spec"]["automountServiceAccountToken"] is False
    assert driver["template"]["spec"]["activeDeadlineSeconds"] == 600
    assert "activeDeadlineSeconds" not in executor["template"]["spec"]
    [main], [worker] = (each["template"]["spec"]["containers"] for each in (driver, executor))
    assert (main["name"], worker["name"]) == ("spark-kubernetes-driver", "spark-kubernetes-executor")
    assert worker["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert {"name": "AIRFLOW_ML_ENGINE", "value": "spark"} in main["env"]
    for container in (main, worker):
        assert not {"command", "args"} & set(container), "they are those of Spark's image"
        assert {"name": "REGION", "value": "eu"} in container["env"]
        assert container["envFrom"] == [{"secretRef": {"name": "store"}}]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_a_fleet_on_spark_runs_its_items_itself() -> None:
    assert not has_jobs(CLUSTER)
    launch = Launch("fleet-0011223344556677", "fleet", "s3://bucket/runs/y/spec.json")
    [main] = application_document(CLUSTER, launch)["spec"]["driver"]["template"]["spec"]["containers"]
    assert "AIRFLOW_ML_FLEET" not in {each["name"] for each in main["env"]}


def test_a_compute_is_a_value_and_changes_field_by_field() -> None:
    same = CLUSTER.but({})
    assert same == CLUSTER
    assert hash(same) == hash(CLUSTER)
    assert repr(CLUSTER).startswith("SparkKubernetesCompute(image='spark:4'")
    assert CLUSTER.but({"executors": 3, "conf": {"spark.b": "1"}}).conf == {
        "spark.b": "1", "spark.sql.shuffle.partitions": 400,
    }  # fmt: skip
    assert KubernetesCompute(image="x").but({"executors": 3}) == KubernetesCompute(image="x")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"service_account": ""}, "has no service_account"),
        ({"queue": "ml"}, "do not go through a queue"),
        ({"conf": {"sql.x": "1"}}, "'sql.x' is no setting of Spark"),
        ({"conf": {"spark.kubernetes.driver.pod.name": "x"}}, "the name is what a retry finds it by"),
        ({"executors": 0}, "give 1 or more"),
        ({"application": "driver.py"}, "no path in the image"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as failed:
        SparkKubernetesCompute(**{"image": "spark:4", "service_account": "spark", **fields})
    assert said in str(failed.value)


def test_what_spark_submit_was_told_is_known_before_settings_are_made(tmp_path: Path) -> None:
    package = tmp_path / "pyspark"
    package.mkdir()
    said = "print('connected', __import__('sys').modules.get('airflow_ml_provider.steps.runner'))"
    (package / "__init__.py").write_text(
        f"class SparkContext:\n    @staticmethod\n    def _ensure_initialized():\n        {said}\n"
    )
    command = [sys.executable, str(spark_driver.__file__), "ingest", "--spec", str(tmp_path / "none.json")]
    given = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{tmp_path}:{Path(spark_driver.__file__).parents[2]}"}
    ran = subprocess.run(
        command, env={**given, "PYSPARK_GATEWAY_PORT": "1"}, capture_output=True, text=True, timeout=120
    )
    assert ran.stdout.startswith("connected None"), ran.stdout + ran.stderr
    assert ran.returncode == InfrastructureError.exit_code


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_step_is_the_driver_and_its_result_comes_through_the_store(world: World, deferrable: bool) -> None:
    # A step that is done when its driver is looked at first needs no deferral.
    code = SLOW.format(seconds=4) if deferrable else PLAIN
    attempt = world.try_(on_spark(world, code, compute={"deferrable": deferrable}))
    output = attempt.to_the_end()
    assert output["table"]["rows"] == world.rows() == 2
    [application] = applications_ever(world)
    assert output["place"]["pod"] == f"{application['metadata']['name']}-driver"
    assert bool(attempt.deferrals) == deferrable
    assert len(world.pods_ever()) == 1
    nothing_is_left(world)


def test_the_users_error_is_told_with_its_kind_and_the_application_is_gone(world: World) -> None:
    with pytest.raises(UserCodeError, match="mine:transform raised ValueError: a user's mistake"):
        world.run(on_spark(world, RAISES, compute={"deferrable": False}))
    nothing_is_left(world)


def test_the_drivers_output_is_the_tasks_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    code = """
        import polars as pl

        def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
            print("said once by the driver", flush=True)
            return rows
        """
    with caplog.at_level("INFO"):
        world.run(on_spark(world, code))
    assert caplog.text.count("said once by the driver") == 1


def test_a_retry_after_the_worker_died_adopts_the_application_that_runs(world: World) -> None:
    task = on_spark(world, SLOW.format(seconds=5))
    world.try_(task).deferred()  # The worker and its trigger are heard of no more.
    assert world.run(task, 2)["table"]["rows"] == 2
    assert len(applications_ever(world)) == len(world.pods_ever()) == 1


@pytest.mark.slow
def test_a_retry_reads_the_result_of_an_application_whose_driver_was_collected(world: World) -> None:
    attempt = world.try_(on_spark(world, SLOW.format(seconds=5)))
    trigger = attempt.deferred()
    world.cluster.until(lambda: [each["status"]["phase"] for each in world.pods_ever()] == ["Succeeded"], 30)
    world.cluster.vanish(world.cluster.pods(NAMESPACE)[0])
    assert finish(attempt, fired(trigger))["table"]["rows"] == 2
    assert len(applications_ever(world)) == 1
    nothing_is_left(world)


@pytest.mark.slow
def test_submissions_at_once_share_one_application(world: World) -> None:
    task = on_spark(world, SLOW.format(seconds=2))
    outputs: list[Any] = []
    threads = [threading.Thread(target=lambda: outputs.append(world.run(task))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [output["table"]["rows"] for output in outputs] == [2, 2, 2]
    assert len(applications_ever(world)) == len(world.pods_ever()) == 1


@pytest.mark.slow
def test_an_application_whose_creation_got_no_answer_is_found(world: World) -> None:
    world.cluster.faults.add(verb="POST", path="/sparkapplications", status=504, processed=True)
    assert world.run(on_spark(world))["table"]["rows"] == 2
    assert len(applications_ever(world)) == 1


def test_not_knowing_whether_there_is_one_makes_none(world: World) -> None:
    world.cluster.faults.add(verb="GET", path="/sparkapplications/", status=500, times=60)
    with pytest.raises(TransientError, match="did not answer clearly to: get sparkapplication"):
        world.run(on_spark(world))
    assert not applications_ever(world)


def test_ending_a_deferred_task_deletes_the_application_with_its_driver(world: World) -> None:
    trigger = world.try_(on_spark(world, SLOW.format(seconds=60))).deferred()
    ended_by_a_user(trigger)
    nothing_is_left(world)


@pytest.mark.slow
def test_ending_a_task_on_a_worker_deletes_the_application_with_its_driver(world: World) -> None:
    attempt = world.try_(on_spark(world, SLOW.format(seconds=60), compute={"deferrable": False}))
    failures: list[BaseException] = []

    def run() -> None:
        try:
            attempt.leg()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    world.cluster.until(lambda: running(world))
    attempt.running.on_kill()
    thread.join(30)
    assert failures
    nothing_is_left(world)
    assert len(applications_ever(world)) == 1, "a task that was ended must not start its step again"


@pytest.mark.slow
def test_an_application_of_older_code_is_replaced_when_its_driver_is_gone(world: World) -> None:
    world.try_(on_spark(world, SLOW.format(seconds=60))).deferred()
    world.cluster.until(lambda: running(world))
    assert world.run(on_spark(world), 2)["table"]["rows"] == 2
    old, new = applications_ever(world)
    assert old["metadata"]["name"] == new["metadata"]["name"]
    assert len(world.pods_ever()) == 2


@pytest.mark.slow
def test_a_driver_that_vanished_is_started_again_within_the_try_so_often_and_no_more(world: World) -> None:
    attempt = world.try_(on_spark(world, SLOW.format(seconds=30), compute={"resumptions": 1}))
    with pytest.raises(PreemptedError, match="the step left no result"):
        attempt.to_the_end(lambda _: world.cluster.vanish(world.cluster.until(lambda: running(world))))
    assert len(applications_ever(world)) == 2


@pytest.mark.slow
def test_a_driver_out_of_memory_names_its_limit_and_the_retry_asks_for_more(world: World) -> None:
    greedy = """
        import time
        import polars as pl

        def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
            taken = bytearray(600 * 2**20)
            time.sleep(3)
            return rows
        """
    task = on_spark(world, greedy, compute={"resources": {"memory": "500Mi"}, "memory_growth": 4})
    with pytest.raises(InfrastructureError, match=r"driver.* ran out of memory: its limit is 500Mi"):
        world.run(task)
    assert world.run(task, 2)["table"]["rows"] == 2
    assert [each["spec"]["driver"]["memory"] for each in applications_ever(world)] == ["250m", "1000m"]


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_submission_that_fails_says_what_spark_submit_said(world: World, deferrable: bool) -> None:
    world.cluster.spark.refusal = "serviceaccounts is forbidden"
    with pytest.raises(
        InfrastructureError, match=r"was not submitted: .*serviceaccounts is forbidden"
    ) as failed:
        world.run(on_spark(world, compute={"deferrable": deferrable}))
    assert "service_account=" in str(failed.value)
    nothing_is_left(world)


def test_a_cluster_where_no_spark_operator_looks_is_said_so(world: World) -> None:
    world.cluster.spark.running = False
    with pytest.raises(InfrastructureError, match=r"has no driver after .*says: nothing") as failed:
        world.run(on_spark(world, compute={"start_timeout": 1}))
    assert "see that a Spark operator runs" in str(failed.value)
    nothing_is_left(world)


def test_a_cluster_without_spark_applications_is_said_so(world: World) -> None:
    message = "the server could not find the requested resource"
    world.cluster.faults.add(path="/sparkapplications", status=404, message=message, times=None)
    with pytest.raises(ConfigError, match="the cluster knows no SparkApplications") as failed:
        world.run(on_spark(world))
    assert "install the Spark operator" in str(failed.value)


def test_a_missing_permission_is_named(world: World) -> None:
    world.cluster.forbid("create", "sparkapplications")
    with pytest.raises(ConfigError, match="refused to create sparkapplication") as failed:
        world.run(on_spark(world))
    assert 'resources: ["sparkapplications"], verbs: ["create"]' in str(failed.value)


def test_nothing_is_asked_of_the_api_that_the_role_with_spark_does_not_grant(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {"conn_type": "generic", "host": "db", "login": "me", "password": PLANTED}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(connection))
    world.run(on_spark(world, READS_IT, connections=["warehouse"]))
    granted = {(each.group, each.resource, verb) for each in needed_by(CLUSTER) for verb in each.verbs}
    asked = {permission_of(request) for request in world.cluster.requests}
    assert ("sparkoperator.k8s.io", "sparkapplications", "patch") in asked
    assert asked <= granted


def test_credentials_are_a_secret_of_the_application_that_is_there_before_it_is_submitted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {"conn_type": "generic", "host": "db", "login": "me", "password": PLANTED}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(connection))
    task = on_spark(world, READS_IT, connections=["warehouse"])
    triggers: list[Any] = []
    output = world.try_(task).to_the_end(lambda trigger: triggers.append(trigger.serialize()))
    assert output["table"]["rows"] == 2
    [application], [secret] = applications_ever(world), world.cluster.ever("secrets")
    assert secret["metadata"]["ownerReferences"][0]["uid"] == application["metadata"]["uid"]
    assert secret["metadata"]["ownerReferences"][0]["kind"] == "SparkApplication"
    changes = [
        (each.verb, "secrets" in each.path)
        for each in world.cluster.requests
        if each.verb in ("POST", "PATCH") and ("secrets" in each.path or "sparkapplications" in each.path)
    ]
    assert changes == [("POST", False), ("POST", True), ("PATCH", False)]
    assert PLANTED not in str(applications_ever(world)) + str(world.pods_ever()) + str(triggers) + str(output)
    world.cluster.until(lambda: not world.cluster.secrets(NAMESPACE))


def test_a_worker_that_died_before_the_credentials_leaves_an_application_that_the_next_try_lets_go(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {"conn_type": "generic", "host": "db", "login": "me", "password": PLANTED}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(connection))
    task = on_spark(world, READS_IT, connections=["warehouse"])
    world.cluster.forbid("create", "secrets")
    with pytest.raises(ConfigError, match="secrets"):
        world.run(task)
    assert not world.pods_ever()
    world.cluster.allow("create", "secrets")
    assert world.run(task, 2)["table"]["rows"] == 2
    assert len(applications_ever(world)) == 1
