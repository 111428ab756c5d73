"""Fleets: real worker processes over a store on disk; an Airflow home where nobody's own is touched."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest
from servers import airflow_home_of_its_own

# Stand-ins for what surrounds an operator.
sys.path.append(str(Path(__file__).parents[1] / "control"))

from fleet_world import WORK, Fleet

# Before the test modules import Airflow.
airflow_home_of_its_own()


@pytest.fixture
def fleet(store: str, tmp_path: Path) -> Fleet:
    """A store and the user's module ``work``."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "work.py").write_text(textwrap.dedent(WORK))
    sys.modules.pop("work", None)
    return Fleet(store, code)
