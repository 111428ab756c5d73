"""What a step does about the place it runs in: leaves word when it is ended, and how much memory it took.

A pod that is killed can say nothing, and one that is deleted is soon forgotten. So the step notes its memory
where Kubernetes keeps it beyond its end, and when it is asked to end it says so in its result: the one thing
that outlives the pod.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from airflow_ml_provider.contract.errors import PreemptedError

log = logging.getLogger("airflow_ml_provider.steps")

_NOTE_EVERY = 1.0
# Of the container: cgroup version 2, then version 1.
_PEAKS = ("/sys/fs/cgroup/memory.peak", "/sys/fs/cgroup/memory/memory.max_usage_in_bytes")


class Ending:
    """Who has the last word: the step's own result, or that it was asked to end. Never both.

    :param leave_word: writes the result of a step that was asked to end.
    """

    def __init__(self, leave_word: Callable[[PreemptedError], None]) -> None:
        self._leave_word = leave_word
        self._lock = threading.Lock()
        self._concluded = False
        self.scratch: Path | None = None

    @contextmanager
    def concluding(self) -> Iterator[None]:
        """While the step's own result is written."""
        with self._lock:
            self._concluded = True
            yield

    def watch(self) -> None:
        """From now on, leave word when asked to end (SIGTERM), also while a library computes without Python.

        Only in a process's main thread, and where nobody else handles the signal.
        """
        if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) not in (
            signal.SIG_DFL, signal.default_int_handler,
        ):  # fmt: skip
            return
        # Python's own handler runs only between two of its instructions; the wakeup pipe is written at once.
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        threading.Thread(target=self._wait, args=(reading,), daemon=True, name="asked-to-end").start()

    def _wait(self, reading: int) -> None:
        while signal.SIGTERM not in os.read(reading, 64):
            pass
        with self._lock:
            if self._concluded:
                return
            error = PreemptedError(
                "the step was asked to end (SIGTERM): its place was taken away, or somebody ended it",
                kept="whatever it published before it was ended, and its saved checkpoints",
            )
            log.error("%s", error)
            try:
                self._leave_word(error)
            finally:
                if self.scratch is not None:
                    shutil.rmtree(self.scratch, ignore_errors=True)
                os._exit(error.exit_code)


def note_memory() -> None:
    """Keep the peak of this process's memory where Kubernetes looks when the container has ended."""
    target = os.environ.get("AIRFLOW_ML_TERMINATION_LOG")
    if not target or not os.access(target, os.W_OK):
        return

    def note() -> None:
        noted = 0
        stop = threading.Event()
        while not stop.wait(_NOTE_EVERY):
            peak = peak_memory()
            if peak > noted * 1.01:
                noted = peak
                # One write: the kernel may kill us between two.
                with open(target, "r+b" if os.path.exists(target) else "wb", buffering=0) as file:
                    file.write(json.dumps({"peak_memory": peak}).encode().ljust(64))

    threading.Thread(target=note, daemon=True, name="memory-note").start()


def peak_memory() -> int:
    """The most bytes this container has used, or this process where there is none."""
    for path in _PEAKS:
        try:
            return int(Path(path).read_text())
        except (OSError, ValueError):
            continue
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
