"""Processes that outlive the command that started them: who they are, and how to end them.

A pid says too little: after a crash or a reboot it may belong to somebody else. A process is therefore known
by pid *and* start, and nothing is ever signalled that does not match both. Everything is started as the leader
of its own session, because Airflow moves each task into a process group of its own: a group would not hold the
tasks, the session does.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

RECORD_PROTOCOL = 1
# Below the kernel's range for outgoing connections (32768 and up), so that a port kept over a restart is not
# taken meanwhile by somebody's client socket.
PORT_RANGE = range(20000, 30000)


@dataclass(frozen=True)
class ProcessIdentity:
    """One process, never confused with a later one of the same pid."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """The process that has this pid now; None where there is none, or only a zombie."""
        started = _start_of(pid)
        return None if started is None else cls(pid, started)

    def is_alive(self) -> bool:
        """Whether this very process still runs, and not another one that got its pid."""
        return _start_of(self.pid) == self.started

    def session(self) -> list[psutil.Process]:
        """What runs in the session that this process leads, itself included, oldest first.

        Empty when the pid was given to another process. A leader that died may leave members behind; its pid
        cannot be given away while they live, so they are still the session's.
        """
        now = _start_of(self.pid)
        if now is not None and now != self.started:
            return []
        members = [process for process in psutil.process_iter() if _session_of(process.pid) == self.pid]
        if now is None and not _same_boot(self.started):
            return []
        return sorted(members, key=lambda process: process.pid)


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


def _same_boot(started: str) -> bool:
    boot, separator, _ = started.rpartition(":")
    return not separator or boot == _boot()


def _session_of(pid: int) -> int | None:
    with suppress(OSError):
        return os.getsid(pid)
    return None


def start_session(
    command: Sequence[str], env: Mapping[str, str], cwd: Path, log: Path
) -> tuple[subprocess.Popen[bytes], ProcessIdentity]:
    """Start a command as the leader of a session of its own, its output in `log` (the last one kept as .1)."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists():
        log.replace(log.with_name(log.name + ".1"))
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    identity = ProcessIdentity.of(process.pid)
    # It may have died at once: an identity that matches nothing any more says so to whoever asks.
    return process, identity or ProcessIdentity(process.pid, "died at once")


def end_sessions(leaders: Iterable[ProcessIdentity], patience: float = 15.0) -> None:
    """End sessions and whatever their processes started: TERM, wait up to `patience` seconds, KILL."""
    doomed: dict[int, psutil.Process] = {}
    for leader in leaders:
        for member in leader.session():
            doomed[member.pid] = member
            # A step may lead a session of its own; it is still a child of a task.
            with suppress(psutil.Error):
                doomed.update((child.pid, child) for child in member.children(recursive=True))
    # psutil compares the start time before it signals: a pid that changed hands in between is left alone.
    for process in doomed.values():
        with suppress(psutil.Error):
            process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(list(doomed.values()), timeout=patience)
    for process in alive:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=5)


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
                ports={name: int(port) for name, port in document["ports"].items()},
                processes={
                    name: ProcessIdentity(int(process["pid"]), str(process["started"]))
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


def last_lines(log: Path, count: int = 25) -> str:
    """The end of a log, for an error message."""
    with suppress(OSError):
        return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
    return f"(no log at {log})"
