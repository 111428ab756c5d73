"""The local deployment's bookkeeping: whom it ends, what it keeps, what it says of a failed start."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from deployment import Deployment, DeploymentError, copy_raw_data
from deployment_postgres import Postgres
from deployment_processes import (
    DeploymentRecord,
    ProcessIdentity,
    end_processes,
    free_port,
    start_session,
    write_atomically,
)
from deployment_settings import deployment_environment, load_secrets

SLEEP = "import time; time.sleep(60)"
PORTS = {"airflow": 1, "mlflow": 2, "worker_logs": 3, "trigger_logs": 4}


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., ProcessIdentity]]:
    """Starts a Python program as a session; ends what the test left of it."""
    identities: list[ProcessIdentity] = []
    children: list[subprocess.Popen[bytes]] = []

    def start(program: str, *arguments: str, mark: str = "") -> ProcessIdentity:
        child, identity = start_session(
            [sys.executable, "-c", program, *arguments], os.environ, tmp_path, tmp_path / "log", mark
        )
        identities.append(identity)
        children.append(child)
        return identity

    yield start
    end_processes(identities, patience=0)
    for child in children:
        child.wait(5)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder outside pytest's own, which every other run of pytest closes to PostgreSQL's user again."""
    with tempfile.TemporaryDirectory(prefix="deployment-") as folder:
        yield Path(folder).resolve()


def pid_written_to(path: Path) -> int:
    eventually(lambda: path.exists() and path.read_text() != "")
    return int(path.read_text())


def eventually(holds: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.02)


def runs(pid: int) -> bool:
    return ProcessIdentity.of(pid) is not None


def processes_in(folder: Path) -> list[str]:
    """What works in a folder or was told of it, whatever it calls itself and whoever its parent is."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            told = f"{process.cwd()} {' '.join(process.cmdline())}"
            if str(folder) in told and process.pid != os.getpid():
                found.append(told)
    return found


def test_a_process_that_got_the_pid_of_a_recorded_one_is_never_ended(started):
    stranger = started(SLEEP)
    recorded = ProcessIdentity(stranger.pid, "an earlier start", stranger.folder)

    assert not recorded.is_alive()
    end_processes([recorded], patience=0)

    assert stranger.is_alive()


def test_a_dead_process_is_not_alive_even_before_its_parent_has_noticed(started):
    process = started(SLEEP)
    assert process.is_alive()

    os.kill(process.pid, signal.SIGKILL)

    eventually(lambda: not process.is_alive())


def test_ending_a_session_ends_tasks_in_groups_and_sessions_of_their_own(started, tmp_path):
    leader = started(
        "import subprocess, sys, time\n"
        "for n, how in enumerate(({'process_group': 0}, {'start_new_session': True})):\n"
        "    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], **how)\n"
        "    open(f'{sys.argv[1]}/pid{n}', 'w').write(str(child.pid))\n"
        "time.sleep(60)",
        str(tmp_path),
    )
    tasks = [pid_written_to(tmp_path / "pid0"), pid_written_to(tmp_path / "pid1")]

    end_processes([leader])

    assert not leader.is_alive()
    assert not any(runs(pid) for pid in tasks)


def test_what_a_killed_leader_left_in_its_session_is_ended(started, tmp_path):
    leader = started(
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open(f'{sys.argv[1]}/pid', 'w').write(str(child.pid))\n"
        "time.sleep(60)",
        str(tmp_path),
    )
    left = pid_written_to(tmp_path / "pid")
    os.kill(leader.pid, signal.SIGKILL)
    eventually(lambda: not leader.is_alive())

    end_processes([ProcessIdentity(leader.pid, leader.started, "/elsewhere")], patience=0)
    assert runs(left), "another session that has the same pid as ours had, by its working folder"

    end_processes([leader])
    assert not runs(left)


def test_an_orphan_that_leads_a_session_itself_is_found_by_its_mark(started, tmp_path):
    leader = started(
        "import subprocess, sys, time\n"
        "program = 'import time; time.sleep(60)'\n"
        "child = subprocess.Popen([sys.executable, '-c', program], start_new_session=True)\n"
        "open(f'{sys.argv[1]}/pid', 'w').write(str(child.pid))\n",
        str(tmp_path),
        mark="the mark of this start",
    )
    orphan = pid_written_to(tmp_path / "pid")
    eventually(lambda: not leader.is_alive())

    end_processes([leader], mark="the mark of another start")
    assert runs(orphan)

    end_processes([leader], mark="the mark of this start")
    assert not runs(orphan)


def test_a_process_started_while_its_session_is_being_ended_is_ended_too(started, tmp_path):
    leader = started(
        "import signal, subprocess, sys, time\n"
        "def last_will(*_):\n"
        "    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "    open(f'{sys.argv[1]}/pid', 'w').write(str(child.pid))\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, last_will)\n"
        "open(f'{sys.argv[1]}/ready', 'w').write('1')\n"
        "time.sleep(60)",
        str(tmp_path),
    )
    pid_written_to(tmp_path / "ready")

    end_processes([leader])

    assert not runs(pid_written_to(tmp_path / "pid"))


def test_a_process_that_ignores_the_request_to_end_is_killed(started, tmp_path):
    deaf = started(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "open(sys.argv[1], 'w').write('1')\n"
        "time.sleep(60)",
        str(tmp_path / "ready"),
    )
    pid_written_to(tmp_path / "ready")

    end_processes([deaf], patience=0.2)

    assert not deaf.is_alive()


def test_a_port_is_kept_while_it_is_free_and_replaced_when_it_is_taken():
    port = free_port()
    assert free_port(preferred=port) == port
    assert free_port(preferred=port, taken=[port]) != port
    with socket.create_server(("127.0.0.1", port)):
        assert free_port(preferred=port) != port


def test_a_record_is_read_back_as_it_was_written(tmp_path):
    record = DeploymentRecord(
        settings="abc",
        mark="m",
        ports={"airflow": 20001},
        processes={"airflow": ProcessIdentity(42, "boot:1", "/home")},
        urls={"airflow": "http://127.0.0.1:20001"},
    )
    record.write(tmp_path / "deployment.json")
    assert DeploymentRecord.read(tmp_path / "deployment.json") == record


@pytest.mark.parametrize("text", ["", "{", "[]", '{"protocol": 99}', '{"protocol": 1, "ports": 5}'])
def test_a_record_that_cannot_be_understood_is_taken_for_none(tmp_path, text):
    (tmp_path / "deployment.json").write_text(text)
    assert DeploymentRecord.read(tmp_path / "deployment.json") == DeploymentRecord()


def test_a_reader_sees_a_whole_record_while_it_is_rewritten(tmp_path):
    path = tmp_path / "deployment.json"
    records = [DeploymentRecord(settings=letter * 5000) for letter in "ab"]
    records[0].write(path)
    seen: list[bool] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(DeploymentRecord.read(path) in records)

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(100):
        records[turn % 2].write(path)
    done.set()
    reader.join()

    assert seen
    assert all(seen)
    assert os.listdir(tmp_path) == ["deployment.json"]


def test_a_write_that_fails_keeps_the_old_file_and_leaves_nothing_behind(tmp_path):
    write_atomically(tmp_path / "file", "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(tmp_path / "file", "\udcff")
    assert (tmp_path / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_secrets_are_made_once_and_only_their_owner_can_read_them(tmp_path):
    secrets = load_secrets(tmp_path / "secrets.json")
    assert load_secrets(tmp_path / "secrets.json") == secrets
    assert len(set(secrets.values())) == 3
    assert stat.S_IMODE((tmp_path / "secrets.json").stat().st_mode) == 0o600


def test_the_callers_own_airflow_and_mlflow_are_not_reached(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://production")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://production")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy")
    monkeypatch.setenv("NO_PROXY", "internal")

    env = deployment_environment(tmp_path, PORTS, {"AIRFLOW__CORE__PARALLELISM": "2"})

    assert "production" not in " ".join(env.values())
    assert env["NO_PROXY"] == "internal,127.0.0.1,localhost"
    assert env["AIRFLOW__CORE__PARALLELISM"] == "2"


def test_raw_data_is_copied_once_and_whole(tmp_path):
    (tmp_path / ".flights.csv.zip.partial").write_text("of an interrupted copy")
    copy_raw_data(tmp_path)
    names = {"airlines.csv", "airports.csv", "flights.csv.zip", "planes.csv", "weather.csv"}
    assert set(os.listdir(tmp_path)) == names
    assert (tmp_path / "flights.csv.zip").stat().st_size == 8258905

    (tmp_path / "planes.csv").write_text("edited by hand")
    copy_raw_data(tmp_path)
    assert (tmp_path / "planes.csv").read_text() == "edited by hand"


def test_postgres_starts_over_a_pid_file_left_by_a_crash_and_spares_who_has_the_pid_now(started, tmp_path):
    # So deep that the path of a socket in it is longer than the system allows.
    postgres = Postgres(tmp_path / ("deep" * 20) / "postgres")
    pid = postgres.start(("airflow", "mlflow"))
    try:
        assert postgres.start(("airflow", "mlflow")) == pid, "a second start finds the first one's server"
        pid_file = postgres.data / "postmaster.pid"
        text = pid_file.read_text()
        postgres.stop()
        assert postgres.pid() is None

        stranger = started(SLEEP)
        pid_file.write_text(text.replace(str(pid), str(stranger.pid), 1))
        assert postgres.pid() is None
        postgres.stop()
        assert stranger.is_alive()
        assert postgres.start(("airflow", "mlflow")) not in (pid, stranger.pid)
    finally:
        postgres.stop()
    assert stranger.is_alive()


def test_a_start_that_fails_shows_the_end_of_the_guilty_log_and_ends_everything(tmp_path):
    deployment = Deployment(
        tmp_path / "home", tmp_path / "dags", {"AIRFLOW__LOGGING__LOGGING_LEVEL": "nonsense"}
    )
    with pytest.raises(DeploymentError) as failure:
        deployment.start()

    assert "airflow ended with exit code 1; everything was ended" in str(failure.value)
    assert "should not be 'nonsense'" in str(failure.value)
    assert deployment.record.processes == {}
    assert deployment.pids_of("postgres") == []
    assert processes_in(tmp_path) == []
    assert not deployment.is_healthy()
    deployment.stop()  # nothing runs: nothing happens


@pytest.mark.slow
def test_a_component_that_dies_while_starting_is_named_with_its_part_of_the_log(tmp_path):
    deployment = Deployment(tmp_path / "home", tmp_path / "dags", {"AIRFLOW__API__SSL_CERT": "/nowhere"})
    with pytest.raises(DeploymentError) as failure, deployment:
        pass

    assert "airflow lost its api-server" in str(failure.value)
    assert "Need both" in str(failure.value)
    assert "scheduler" not in str(failure.value)
    assert deployment.record.processes == {}
    assert processes_in(tmp_path) == []


@pytest.mark.slow
def test_a_second_start_finds_the_first_and_a_stopped_one_comes_back_on_its_ports(tmp_path):
    (tmp_path / "dags").mkdir()
    first = Deployment(tmp_path / "home", tmp_path / "dags")
    with first:
        airflow, processes = first.airflow_url, first.record.processes
        with Deployment(tmp_path / "home", tmp_path / "dags") as second:
            assert not second.started_here
            assert second.record.processes == processes
        assert first.is_healthy(), "the second did not start it, so it does not stop it"

        os.kill(first.pids_of("airflow")[0], signal.SIGKILL)
        eventually(lambda: not first.is_healthy())
        first.start()
        assert first.is_healthy()
        assert first.airflow_url == airflow
        assert len(first.pids_of("scheduler")) == 1, "what the killed parent left was ended"
    assert all(first.pids_of(part) == [] for part in ("postgres", "mlflow", "airflow"))
    assert processes_in(tmp_path) == []
