"""One container as a process: its life, its signals, its memory, its log."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

FALLBACK_LINES, FALLBACK_BYTES = 80, 2048


class Log:
    """Lines with the time each was written, in nanoseconds."""

    def __init__(self) -> None:
        self.grown = threading.Condition()
        self.lines: list[tuple[int, bytes]] = []
        self.closed = False

    def add(self, line: bytes) -> None:
        with self.grown:
            self.lines.append((time.time_ns(), line))
            self.grown.notify_all()

    def close(self) -> None:
        with self.grown:
            self.closed = True
            self.grown.notify_all()

    def follow(self, first: int) -> Iterator[tuple[int, bytes] | None]:
        """New lines as they come, None when a second brought none, until the container ends."""
        while True:
            with self.grown:
                if not self.closed and len(self.lines) == first:
                    self.grown.wait(1)
                new, ended = self.lines[first:], self.closed
            yield from new or [None]
            first += len(new)
            if ended and first == len(self.lines):
                return

    def tail(self) -> str:
        """What FallbackToLogsOnError reports."""
        text = b"".join(line for _, line in self.lines[-FALLBACK_LINES:])
        return text[-FALLBACK_BYTES:].decode(errors="replace")


def stamp(at: int) -> bytes:
    """RFC 3339 with nine digits, as a kubelet writes it."""
    whole = datetime.fromtimestamp(at // 10**9, UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{at % 10**9:09d}Z".encode()


class Process:
    """A command in a session of its own. When its leader ends the rest is killed, as a container's is.

    :raises OSError: the command cannot be started.
    """

    def __init__(self, command: list[str], env: dict[str, str], directory: Path):
        self.log = Log()
        self.started = datetime.now(UTC)
        self.finished: datetime | None = None
        self.out_of_memory = False
        self._popen = subprocess.Popen(
            command,
            env=env,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.pid = self._popen.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def exit_code(self) -> int | None:
        """As a container runtime reports it: 128 + the signal; None while it runs."""
        code = self._popen.poll()
        if code is None:
            return None
        if self.finished is None:
            self.kill()
            self._reader.join(2)
            self.log.close()
            self.finished = datetime.now(UTC)
        return 128 - code if code < 0 else code

    def terminate(self) -> None:
        """SIGTERM to the leader only, and only if it handles it: as process 1 it is immune otherwise."""
        with contextlib.suppress(OSError, ProcessLookupError):
            caught = next(
                line for line in Path(f"/proc/{self.pid}/status").read_text().splitlines() if "SigCgt" in line
            )
            if int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
                os.kill(self.pid, signal.SIGTERM)

    def kill(self, *, out_of_memory: bool = False) -> None:
        self.out_of_memory |= out_of_memory
        for pid in sessions().get(self.pid, ()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def memory(self, members: list[int]) -> int:
        """Bytes of anonymous memory, shared pages counted once, as a memory cgroup counts them."""
        total = 0
        for pid in members:
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                        total += int(line.split()[1]) * 1024
        return total

    def _read(self) -> None:
        assert self._popen.stdout
        with self._popen.stdout as lines:
            for line in lines:
                self.log.add(line)


def sessions() -> dict[int, list[int]]:
    """The processes of every session, by its leader."""
    found: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()
                found.setdefault(int(fields[3]), []).append(int(entry))
    return found
