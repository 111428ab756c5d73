"""Searches: real worker processes over a store on disk; an Airflow home where nobody's own is touched."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest
from servers import airflow_home_of_its_own

# Stand-ins for what surrounds an operator.
sys.path.append(str(Path(__file__).parents[1] / "control"))

from search_world import OBJECTIVES, Search

# Before the test modules import Airflow.
airflow_home_of_its_own()


@pytest.fixture
def search(store: str, tmp_path: Path) -> Search:
    """A store and the user's module ``objectives``."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "objectives.py").write_text(textwrap.dedent(OBJECTIVES))
    sys.modules.pop("objectives", None)
    return Search(store, code)
