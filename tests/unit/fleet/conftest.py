"""Fleets: real worker processes over a store on disk; an Airflow home where nobody's own is touched."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

# Stand-ins for what surrounds an operator.
sys.path.append(str(Path(__file__).parents[1] / "control"))

from fleet_world import WORK, Fleet

# Before the test modules import Airflow.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-home-"))
atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"


@pytest.fixture
def fleet(store: str, tmp_path: Path) -> Fleet:
    """A store and the user's module ``work``."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "work.py").write_text(textwrap.dedent(WORK))
    sys.modules.pop("work", None)
    return Fleet(store, code)
