"""The two planes stay apart, and modules stay small."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from airflow_ml_provider.contract.arguments import VERBS

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "airflow_ml_provider"


def lines_of(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_the_import_contracts_hold() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 broken" in run.stdout


@pytest.mark.parametrize(
    ("folder", "most"),
    [("operators", 250), ("compute", 250), ("sensors", 150), ("triggers", 150), ("links", 150)],
)
def test_a_module_of_the_control_plane_fits_on_a_few_screens(folder: str, most: int) -> None:
    modules = sorted((PACKAGE / folder).glob("*.py"))
    assert modules
    assert {path.name: lines_of(path) for path in modules if lines_of(path) > most} == {}


def test_each_test_module_has_a_name_of_its_own() -> None:
    # Without packages, pytest can't collect two of one name in one process, as ``pytest tests`` does.
    names = [path.name for path in (REPOSITORY / "tests").rglob("test_*.py")]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


def test_each_verb_has_an_operator_and_a_step_of_its_name() -> None:
    from airflow_ml_provider.contract.arguments import ARGUMENTS
    from airflow_ml_provider.operators import __all__ as exported

    operators = [name for name in exported if name.endswith("Operator")]
    assert sorted(operators) == sorted(f"{verb.title()}Operator" for verb in VERBS)
    assert tuple(ARGUMENTS) == VERBS
    for verb in VERBS:
        assert (PACKAGE / "operators" / f"{verb}.py").is_file()
        assert (PACKAGE / "steps" / f"{verb}.py").is_file()


def test_a_step_runs_where_airflow_is_not_installed(tmp_path: Path) -> None:
    (tmp_path / "airflow.py").write_text("raise ImportError('there is no Airflow here')\n")
    program = (
        "import sys\n"
        "from airflow_ml_provider.steps.__main__ import main\n"
        "import airflow_ml_provider.steps.runner\n"
        "assert not [name for name in sys.modules if name.partition('.')[0] == 'airflow']\n"
        f"assert main(['ingest', '--spec', {str(tmp_path / 'missing.json')!r}]) == 70\n"
    )
    env = {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}", "PATH": "/usr/bin:/bin"}
    run = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stdout + run.stderr


HEAVY = (
    "airflow",
    "mlflow",
    "pandas",
    "sklearn",
    "scipy",
    "great_expectations",
    "matplotlib",
    "lightgbm",
    "optuna",
)
# What a step's process has imported of these when its verb begins; all else is imported when it is needed.
BEGINS_WITH = {"evaluate": {"matplotlib"}, "search": {"matplotlib"}}


# What reads and writes tables takes longer to import than many a step takes. It is imported by verbs that always
# read one; the others, and the processes of a fleet, import it when they come to a table.
OF_TABLES = {"polars", "numpy", "pyarrow", "deltalake", "duckdb"}
WITHOUT_TABLES = ("fleet", "promote", "rollback", "fleet_modes", "fleet_work", "search_modes", "sharding")


@cache
def loaded_by(module: str) -> set[str]:
    """The packages that a step process has imported when its verb begins."""
    program = (
        "import sys\n"
        "import airflow_ml_provider.steps.__main__, airflow_ml_provider.steps.runner\n"
        "import airflow_ml_provider.steps.tracking\n"
        f"import airflow_ml_provider.steps.{module}\n"
        "print(*{name.partition('.')[0] for name in sys.modules})\n"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


@pytest.mark.parametrize("module", WITHOUT_TABLES)
def test_a_process_that_may_need_no_table_begins_without_what_reads_one(module: str) -> None:
    loaded = loaded_by(module)
    assert not loaded & {*HEAVY, *OF_TABLES}
    assert "airflow_ml_provider" in loaded


def test_duckdb_is_imported_by_the_steps_that_join_in_it_only() -> None:
    assert "duckdb" not in loaded_by("ingest") | loaded_by("train") | loaded_by("monitor")


@pytest.mark.parametrize("verb", VERBS)
def test_a_step_process_begins_without_the_heavy_libraries(verb: str) -> None:
    assert loaded_by(verb) & set(HEAVY) <= BEGINS_WITH.get(verb, set())
