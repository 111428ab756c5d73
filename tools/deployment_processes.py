"""Processes that outlive the command that started them: who they are, and how to end them.

A pid says too little: after a crash or a reboot it may belong to somebody else. A process is therefore known
by pid *and* start, and nothing is signalled that does not match both. Everything is started as the leader of
a session of its own, because Airflow moves each task into its own process group: a group would not hold the
tasks, the session does. A step that leads a session itself and lost its task is found by a mark in its
environment.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

RECORD_PROTOCOL = 1
# The environment variable that marks every process of one start of a deployment; its value is never reused.
MARK = "LOCAL_DEPLOYMENT_MARK"
# Below the kernel's range for outgoing connections (32768 and up), so that a port kept over a restart is not
# taken meanwhile by somebody's client socket.
PORT_RANGE = range(20000, 30000)


@dataclass(frozen=True)
class ProcessIdentity:
    """One process, never confused with a later one of the same pid."""

    pid: int
    started: str
    folder: str = ""

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """The process that has this pid now; None where there is none, or only a zombie."""
        started = _start_of(pid)
        return None if started is None else cls(pid, started, _folder_of(pid))

    def is_alive(self) -> bool:
        """Whether this very process still runs, and not another one that got its pid."""
        return _start_of(self.pid) == self.started

    def session(self) -> list[psutil.Process]:
        """What runs in the session that this process leads, itself included, in the order of pids.

        Empty when the pid was given to another process. Where the leader died, its session is what bears its
        pid and has a process in its working folder: the pid might have led another session since.
        """
        now = _start_of(self.pid)
        if now is not None and now != self.started:
            return []
        members = [process for process in psutil.process_iter() if _session_of(process.pid) == self.pid]
        if now is None and not any(_folder_of(process.pid) == self.folder for process in members):
            return []
        return sorted(members, key=lambda process: int(process.pid))


def _start_of(pid: int) -> str | None:
    """When a process started, in a form that no clock change can shift; None for none or a zombie."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists():
            ticks = stat.read_text().rpartition(")")[2].split()[19]
            return f"{_boot()}:{ticks}"
        return f"{process.create_time():.2f}"
    except (psutil.Error, OSError):
        return None


def _boot() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _folder_of(pid: int) -> str:
    with suppress(psutil.Error, OSError):
        return str(psutil.Process(pid).cwd())
    return ""


def _session_of(pid: int) -> int | None:
    with suppress(OSError):
        return os.getsid(pid)
    return None


def start_session(
    command: Sequence[str], env: Mapping[str, str], cwd: Path, log: Path, mark: str = ""
) -> tuple[subprocess.Popen[bytes], ProcessIdentity]:
    """Start a command as the leader of its own session, its output in `log` (the last one is kept as .1)."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists():
        log.replace(log.with_name(log.name + ".1"))
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**env, MARK: mark},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    identity = ProcessIdentity.of(process.pid)
    # It may have died at once: then an identity that matches no process.
    return process, identity or ProcessIdentity(process.pid, "died at once", str(cwd))


def end_processes(leaders: Iterable[ProcessIdentity], mark: str = "", patience: float = 15.0) -> None:
    """End sessions and whatever their processes started: TERM, wait up to `patience` seconds, KILL.

    :param leaders: the leaders of the sessions; one whose pid was given to another process is passed over.
    :param mark: also end what carries this mark, however it came to run.
    :param patience: seconds between TERM and KILL.
    """
    leaders = list(leaders)
    doomed: set[psutil.Process] = set()
    asked: set[psutil.Process] = set()
    began = time.monotonic()
    # In rounds, because a process may start another between being listed and being ended.
    while time.monotonic() - began < patience + 10:
        doomed.update(_living(leaders, mark))
        doomed = {process for process in doomed if _start_of(process.pid) and process.is_running()}
        if not doomed:
            return
        out_of_patience = time.monotonic() - began >= patience
        for process in doomed:
            # psutil compares the start time before it signals: a pid that changed hands is left alone.
            with suppress(psutil.Error):
                if out_of_patience:
                    process.kill()
                elif process not in asked:
                    process.terminate()
        asked |= doomed
        psutil.wait_procs(doomed, timeout=0.2)


def _living(leaders: Iterable[ProcessIdentity], mark: str) -> set[psutil.Process]:
    living = set(_marked(mark)) if mark else set()
    for leader in leaders:
        for member in leader.session():
            living.add(member)
            with suppress(psutil.Error):
                living.update(member.children(recursive=True))
    return {process for process in living if process.pid != os.getpid()}


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        # Another user's, or overwritten (Airflow's own processes write their title there): not seen.
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark:
                found.append(process)
    return found


def free_port(preferred: int | None = None, taken: Iterable[int] = ()) -> int:
    """A TCP port that is free on the loopback: the preferred one if it still is."""
    taken = set(taken)
    candidates = random.sample(PORT_RANGE, 200)
    for port in candidates if preferred is None else [preferred, *candidates]:
        if port not in taken and _is_free(port):
            return port
    raise OSError(f"no free port among 200 tried of {PORT_RANGE.start}-{PORT_RANGE.stop - 1}")


def _is_free(port: int) -> bool:
    # The wildcard address: Airflow's log servers bind it, and it conflicts with a listener on any address.
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


@dataclass
class DeploymentRecord:
    """What `deployment.json` says: which processes were started, on which ports, with which settings."""

    settings: str = ""
    mark: str = ""
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, ProcessIdentity] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> DeploymentRecord:
        """The record at `path`; an empty one where there is none, or none that can be understood."""
        try:
            document: dict[str, Any] = json.loads(path.read_text())
            if document["protocol"] != RECORD_PROTOCOL:
                return cls()
            return cls(
                settings=str(document["settings"]),
                mark=str(document["mark"]),
                ports={name: int(port) for name, port in document["ports"].items()},
                processes={
                    name: ProcessIdentity(
                        int(process["pid"]), str(process["started"]), str(process["folder"])
                    )
                    for name, process in document["processes"].items()
                },
                urls=dict(document["urls"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls()

    def write(self, path: Path) -> None:
        """Replace the record at `path` in one step: a reader sees the old one or the new one."""
        write_atomically(path, json.dumps({"protocol": RECORD_PROTOCOL, **asdict(self)}, indent=2) + "\n")


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a small file so that nobody ever reads half of it, and nobody reads it whom `mode` excludes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def last_lines(log: Path, count: int = 25, starting_with: tuple[str, ...] = ()) -> str:
    """The end of a log, for an error message; only of lines that start with one of these words, if given."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return f"(no log at {log})"
    return "\n".join([line for line in lines if not starting_with or line.startswith(starting_with)][-count:])
