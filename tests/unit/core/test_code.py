"""Which files are a step's code, found without running them."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_ml_provider.contract.code import code_digest, reachable_files
from airflow_ml_provider.contract.errors import UserCodeError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    package = tmp_path / "flights"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "features.py").write_text(
        "from flights import times\nfrom .rates import rate\nimport polars\n"
    )
    (package / "times.py").write_text("X = 1\n")
    (package / "rates.py").write_text("def rate(): ...\n")
    (package / "model.py").write_text("raise SystemExit('must never be imported')\n")
    (tmp_path / "flights_train.py").write_text("# a DAG file\n")
    return tmp_path


def test_the_code_of_a_function_is_what_its_module_can_reach(root: Path) -> None:
    found = reachable_files(["flights.features"], [str(root)])
    assert sorted(found) == ["flights", "flights.features", "flights.rates", "flights.times"]


def test_editing_a_reachable_file_changes_the_digest_and_any_other_does_not(root: Path) -> None:
    before = code_digest(["flights.features"], [str(root)])
    (root / "flights" / "model.py").write_text("# changed\n")
    (root / "flights_train.py").write_text("# a changed comment\n")
    assert code_digest(["flights.features"], [str(root)]) == before
    (root / "flights" / "rates.py").write_text("def rate(): return 1\n")
    assert code_digest(["flights.features"], [str(root)]) != before


def test_a_module_beside_the_entry_module_counts_when_it_is_imported(root: Path) -> None:
    (root / "mine.py").write_text("import helpers\n")
    (root / "helpers.py").write_text("X = 1\n")
    before = code_digest(["mine"], [str(root)])
    (root / "helpers.py").write_text("X = 2\n")
    assert code_digest(["mine"], [str(root)]) != before


def test_line_ends_do_not_change_the_digest(root: Path) -> None:
    before = code_digest(["flights.features"], [str(root)])
    path = root / "flights" / "rates.py"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert code_digest(["flights.features"], [str(root)]) == before


def test_a_missing_module_is_answered_with_the_nearest(root: Path) -> None:
    with pytest.raises(UserCodeError, match=r"did you mean 'flights\.features'"):
        code_digest(["flihgts.features"], [str(root)])


def test_an_installed_function_has_a_digest_too(root: Path) -> None:
    assert reachable_files(["json"], [str(root)]) == {}


def test_a_syntax_error_names_file_and_line(root: Path) -> None:
    (root / "flights" / "rates.py").write_text("x = (\n")
    with pytest.raises(UserCodeError, match=r"rates.py, line 1"):
        code_digest(["flights.features"], [str(root)])
