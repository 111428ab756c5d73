"""Folders for what a step lays down on local disk, all below one that its starter removes however the step ends."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# The folder that this process and all that it starts use; the system's own for temporary files where it is not set.
VARIABLE = "AIRFLOW_ML_SCRATCH"


def new_folder(prefix: str) -> Path:
    """An empty folder of our own."""
    return Path(tempfile.mkdtemp(prefix=prefix, dir=os.environ.get(VARIABLE) or None))


def new_folder_of(step_key: str) -> Path:
    """An empty folder for a step, named after it."""
    return new_folder(f"{step_key[:40]}-")


@contextmanager
def removed(folder: Path) -> Iterator[Path]:
    """A folder that is removed in the end, as far as it can be."""
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
