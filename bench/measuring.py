"""What a process costs, and two processes in turn, so that a busy moment of the machine hits both."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Starts a command and says what it cost. A process is taken to have used, at its start, as much memory as the
# one that started it; so that one must be small, which a benchmark that has made its data is not.
_STARTER = """
import json, os, sys, time
started = time.perf_counter()
pid = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
with open(sys.argv[1], "w") as file:
    spent = usage.ru_utime + usage.ru_stime
    json.dump([time.perf_counter() - started, spent, usage.ru_maxrss / 1024], file)
sys.exit(min(abs(os.waitstatus_to_exitcode(status)), 255))
"""


@dataclass(frozen=True)
class Cost:
    """Of one run: wall-clock and processor seconds with all children, peak resident MiB of the largest one."""

    seconds: float
    cpu: float = 0.0
    peak: float = 0.0


@dataclass(frozen=True)
class Row:
    """One line of the table.

    :param what: the work, with its size.
    :param reference: what it is compared with.
    :param target: the ratio (or the bound) wanted, in words: ``"<= 1.5x time"``.
    :param ours: costs of our runs.
    :param theirs: costs of the reference, run by run; empty for a row that only says what ours costs.
    :param as_speed: show the ratio as speed (reference / ours) instead of time (ours / reference).
    :param unit: what is compared: "seconds", "cpu" or "peak".
    :param limit: the number in ``target``; None when there is none to compare with.
    :param note: what one needs to know to read the numbers.
    :param most_more: of a target that is a difference: how many seconds more ours may take.
    """

    what: str
    reference: str
    target: str
    ours: Sequence[Cost]
    theirs: Sequence[Cost] = ()
    as_speed: bool = False
    unit: str = "seconds"
    limit: float | None = None
    note: str = ""
    most_more: float | None = None

    @property
    def ratios(self) -> list[float]:
        """One a pair of runs."""
        pairs = [
            (getattr(one, self.unit), getattr(other, self.unit))
            for one, other in zip(self.ours, self.theirs, strict=True)
        ]
        return [other / one if self.as_speed else one / other for one, other in pairs]

    @property
    def differences(self) -> list[float]:
        """Ours less the reference, one a pair of runs."""
        pairs = zip(self.ours, self.theirs, strict=True)
        return [getattr(one, self.unit) - getattr(other, self.unit) for one, other in pairs]

    @property
    def met(self) -> bool | None:
        """Whether the median ratio, or difference, keeps the target; None when there is nothing to compare."""
        if self.most_more is not None:
            return statistics.median(self.differences) <= self.most_more
        if self.limit is None or not self.theirs:
            return None
        median = statistics.median(self.ratios)
        return median >= self.limit if self.as_speed else median <= self.limit


def run(command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Cost:
    """Run a command and measure it.

    :raises SystemExit: it failed; its output is shown.
    """
    log = Path(os.environ.get("TMPDIR", "/tmp")) / f"bench-{os.getpid()}.log"
    cost = log.with_suffix(".cost")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _STARTER, str(cost), *map(str, command)],
            env=dict(env or os.environ), cwd=cwd, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    found = Cost(*json.loads(cost.read_text())) if cost.exists() else Cost(0)
    cost.unlink(missing_ok=True)
    if code:
        sys.exit(f"{' '.join(map(str, command))} ended with {code}:\n{log.read_text()[-4000:]}")
    log.unlink()
    return found


def in_turn(
    ours: Callable[[], Cost], theirs: Callable[[], Cost], repeats: int
) -> tuple[list[Cost], list[Cost]]:
    """Both, alternating which goes first."""
    mine: list[Cost] = []
    others: list[Cost] = []
    for number in range(repeats):
        for which, costs in ((ours, mine), (theirs, others))[:: 1 if number % 2 else -1]:
            costs.append(which())
    return mine, others
