"""What a pod gets and nobody sees: the user's code, verified, and credentials, in a Secret that goes with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from on_cluster import NAMESPACE, World
from test_pods import SLOW, running

from airflow_ml_provider.compute.permissions import PERMISSIONS
from airflow_ml_provider.contract.errors import ConfigError, InfrastructureError
from airflow_ml_provider.contract.packing import MOST_BYTES, archive_digest, files_of, pack, unpack
from airflow_ml_provider.contract.store import local_path

PLANTED = "pl4nted-s3cret"
READS_IT = """
    import json
    import os
    import polars as pl

    def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
        found = json.loads(os.environ["AIRFLOW_ML_CONN_WAREHOUSE"])
        assert found["password"] == "pl4nted" + "-s3cret" and found["host"] == "db"
        return rows
    """


def test_code_of_the_dags_folder_reaches_the_pod_without_an_image_build(world: World) -> None:
    (world.code / "helper.py").write_text("ADDED = 'from another file'\n")
    code = f"""
        import helper
        import polars as pl

        def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
            assert not __file__.startswith({str(world.code)!r})
            return rows.with_columns(what=pl.lit(helper.ADDED))
        """
    world.run(world.task(code))
    archives = list((local_path(world.store.uri) / "code").iterdir())
    assert len(archives) == 1
    world.run(world.task(code), run_id="manual__2")
    assert list((local_path(world.store.uri) / "code").iterdir()) == archives


def test_code_in_the_image_is_not_sent(world: World) -> None:
    world.cluster.images["mlsteps:dev"].env["PYTHONPATH"] = str(world.code)
    world.run(world.task(compute={"code_in_image": True}))
    assert not (local_path(world.store.uri) / "code").exists()


def test_tampered_code_does_not_run(world: World) -> None:
    attempt = world.try_(world.task(SLOW.format(seconds=0)))
    world.cluster.node_capacity = {"cpu": 0, "memory": 0, "pods": 0}
    trigger = attempt.deferred()
    [archive] = (local_path(world.store.uri) / "code").iterdir()
    archive.write_bytes(archive.read_bytes().replace(b"time", b"evil"))
    world.cluster.node_capacity = {"cpu": 8, "memory": "16Gi", "pods": 10}
    from on_cluster import fired
    from test_pods import finish

    with pytest.raises(InfrastructureError, match="is not what was packed"):
        finish(attempt, fired(trigger))


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        folder = tmp_path / name / "package"
        folder.mkdir(parents=True)
        order = ["b.py", "a.py", "data.json"] if name == "one" else ["data.json", "a.py", "b.py"]
        for file in order:
            (folder / file).write_text(file)
        (folder / "__pycache__").mkdir()
        (folder / "__pycache__" / "a.pyc").write_text(name)
        (folder / ".hidden").write_text(name)
    first, second = (pack(files_of([str(tmp_path / name)])) for name in ("one", "two"))
    assert first == second
    unpack(first, archive_digest(first), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*")) == ["a.py", "b.py", "data.json"]


def test_only_packages_that_are_reached_are_packed_but_those_whole(tmp_path: Path) -> None:
    for name in ("mine/model.py", "mine/lookup.csv", "other/model.py", "alone.py", "another.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    reached = [tmp_path / "mine" / "model.py", tmp_path / "alone.py"]
    assert sorted(files_of([str(tmp_path)], reached)) == ["alone.py", "mine/lookup.csv", "mine/model.py"]


def test_data_in_the_code_folder_is_refused_by_name(tmp_path: Path) -> None:
    with (tmp_path / "dump.bin").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(ConfigError, match=r"the largest is .*dump\.bin"):
        pack(files_of([str(tmp_path)]))


def test_an_archive_that_would_leave_its_folder_is_refused(tmp_path: Path) -> None:
    import io
    import zipfile

    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("../outside.py", "")
    with pytest.raises(InfrastructureError, match="outside its folder"):
        unpack(content.getvalue(), archive_digest(content.getvalue()), tmp_path / "in")
    assert not (tmp_path / "outside.py").exists()


@pytest.fixture
def warehouse(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = {"conn_type": "postgres", "host": "db", "login": "ml", "password": PLANTED}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(connection))


@pytest.mark.usefixtures("warehouse")
def test_a_connection_reaches_the_pod_in_a_secret_that_goes_with_it(world: World) -> None:
    attempt = world.try_(world.task(READS_IT, connections=["warehouse"]))
    owned: list[dict[str, Any]] = []

    def look(_: Any) -> None:
        world.cluster.until(lambda: running(world))
        owned.extend(world.cluster.secrets(NAMESPACE))

    assert attempt.to_the_end(look)["table"]["rows"] == 2
    [secret] = owned
    assert secret["metadata"]["ownerReferences"][0]["uid"] == world.pods_ever()[0]["metadata"]["uid"]
    assert secret["immutable"]
    world.cluster.until(lambda: not world.cluster.secrets(NAMESPACE))


@pytest.mark.usefixtures("warehouse")
def test_the_planted_secret_is_nowhere_but_in_the_secret(
    world: World, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    attempt = world.try_(world.task(READS_IT, connections=["warehouse"]))
    triggers: list[Any] = []
    with caplog.at_level("DEBUG"):
        output = attempt.to_the_end(lambda trigger: triggers.append(trigger.serialize()))
    sent = [request.body for request in world.cluster.requests if "/secrets" not in request.path]
    stored = b"".join(path.read_bytes() for path in local_path(world.store.uri).rglob("*") if path.is_file())
    told = caplog.text + "".join(capfd.readouterr())
    everything = [json.dumps(sent, default=str), str(output), str(attempt.ti.pushed), str(triggers), told]
    for place in [*everything, json.dumps(world.pods_ever()), stored.decode(errors="replace")]:
        assert PLANTED not in place
    assert any(PLANTED in str(decoded(secret)) for secret in world.cluster.ever("secrets"))


def test_a_connection_that_does_not_exist_is_named_before_anything_starts(world: World) -> None:
    with pytest.raises(ConfigError, match="no Airflow connection 'warehouse'"):
        world.run(world.task(connections="warehouse"))
    assert not world.pods_ever()


@pytest.mark.usefixtures("warehouse")
@pytest.mark.parametrize("path", [r"/secrets$", r"/pods/[^/]+$"])
def test_a_worker_that_dies_between_pod_and_secret_leaves_a_pod_that_waits(world: World, path: str) -> None:
    task = world.task(READS_IT, connections=["warehouse"])
    fault = world.cluster.faults.add(
        verb="POST" if "secrets" in path else "PATCH", path=path, times=None, drop=True
    )
    with pytest.raises(Exception, match="did not answer clearly"):
        world.run(task)
    assert [pod["status"]["phase"] for pod in world.cluster.pods(NAMESPACE)] == ["Pending"]
    world.cluster.faults.remove(fault)
    assert world.run(task, 2)["table"]["rows"] == 2
    assert len(world.pods_ever()) == 1


@pytest.mark.usefixtures("warehouse")
def test_nothing_is_asked_of_the_api_that_the_role_does_not_grant(world: World) -> None:
    from test_fleet_job import fleet

    world.run(world.task(READS_IT, connections=["warehouse"]))
    world.run(
        world.task(READS_IT, connections=["warehouse"], compute={"deferrable": False}), run_id="manual__2"
    )
    world.run(fleet(world, connections=["warehouse"]))
    granted = {(each.group, each.resource, verb) for each in PERMISSIONS for verb in each.verbs}
    asked = {permission_of(request) for request in world.cluster.requests}
    assert asked <= granted


def permission_of(request: Any) -> tuple[str, str, str]:
    """A request as RBAC sees it."""
    path, _, query = request.path.partition("?")
    parts = path.strip("/").split("/")
    group = "" if parts[0] == "api" else parts[1]
    rest = parts[parts.index("namespaces") + 2 :]
    resource = "/".join([rest[0], *rest[2:]])
    verbs = {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete", "PUT": "update"}
    verb = verbs[request.verb]
    if verb == "get" and len(rest) == 1:
        verb = "watch" if "watch=true" in query.lower() else "list"
    return group, resource, verb


def decoded(secret: dict[str, Any]) -> dict[str, str]:
    import base64

    return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
