"""Processes that may take only so much memory, as the kernel counts it.

By a limit on what they reserve, beyond what they have after their imports, which anybody may set; or by a control
group, as a container has one, which counts what is in use, and which only root may make.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
LIMITED = """
import importlib, pathlib, resource, sys
megabytes, modules, program, *sys.argv[1:] = sys.argv[1:]
for module in modules.split():
    importlib.import_module(module)
status = pathlib.Path("/proc/self/status").read_text()
before = int(status.partition("VmData:")[2].split()[0]) * 1024
limit = before + int(megabytes) * 1_000_000
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
exec(program)
"""
STEP = """
from airflow_ml_provider.steps import __main__ as steps
sys.exit(steps.main(sys.argv[1:]))
"""


def run_limited(
    megabytes: int, modules: str, program: str, *arguments: object
) -> subprocess.CompletedProcess[str]:
    """Run a program text that may take so many megabytes; what it says is in ``stdout``.

    :param modules: what it imports beforehand, so that libraries do not count.
    """
    command = [sys.executable, "-c", LIMITED, str(megabytes), modules, program, *map(str, arguments)]
    # Each thread reserves memory of its own, and machines have many.
    few = {
        "POLARS_MAX_THREADS": "2",
        "OMP_NUM_THREADS": "2",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
    }
    return subprocess.run(
        command, env={**os.environ, **few}, cwd=REPOSITORY, text=True, timeout=600, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@contextmanager
def memory_group(megabytes: int) -> Iterator[Path | None]:
    """A control group whose processes may use so many megabytes in all; None where none can be made."""
    top = Path("/sys/fs/cgroup")
    first = (top / "memory").is_dir()
    group = (top / "memory" if first else top) / f"test-{os.getpid()}"
    limit = "memory.limit_in_bytes" if first else "memory.max"
    try:
        group.mkdir()
        (group / limit).write_text(str(megabytes * 1_000_000))
    except OSError:
        made = False
    else:
        made = True
    try:
        yield group if made else None
    finally:
        if group.is_dir():
            group.rmdir()


def run_in(group: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python with such arguments in a control group; what it says is in ``stdout``."""
    return subprocess.run(
        ["sh", "-c", 'echo $$ > "$0" && exec "$@"', group / "cgroup.procs", sys.executable, *map(str, arguments)],
        cwd=REPOSITORY, text=True, timeout=600, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
