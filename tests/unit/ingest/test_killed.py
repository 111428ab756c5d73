"""A step killed at any point and run again leaves the tables of an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

REPOSITORY = Path(__file__).parents[3]
BAD_LINES = "2013,13,1\n" + ",".join(["2013", "2", "31", *["x"] * 16]) + "\n"


def start(spec: Path, scratch: Path) -> subprocess.Popen[bytes]:
    """The step in a process of its own, as a compute starts it."""
    scratch.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "airflow_ml_provider.steps", "ingest", "--spec", str(spec)]
    environment = {**os.environ, "TMPDIR": str(scratch), "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def write_spec(folder: Path, source: Path) -> Path:
    folder.mkdir()
    document = {
        "verb": "ingest",
        "store": (folder / "store").as_uri(),
        "step_key": "a-step",
        "code": {"roots": [str(REPOSITORY / "dags")]},
        "arguments": {
            "source": str(source),
            "schema": "flights.schemas:FLIGHTS",
            "publish": {"name": "flights"},
            "partitions": "2013-01-01..2013-02-28",
            "transform": "flights.ingest:by_departure_day",
            "max_bad_rows": 10,
        },
    }
    path = folder / "spec.json"
    path.write_text(json.dumps(document))
    return path


def contents(folder: Path) -> dict[str, pl.DataFrame]:
    """All that readers of the store can see."""
    keys = {"flights": ["flight_id"], "flights_quarantine": ["line", "partition"]}
    return {
        name: pl.read_delta(str(folder / "store" / "tables" / name)).sort(key) for name, key in keys.items()
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, flights_raw: Path) -> Path:
    """Some months of flights, two of them asked for, with bad rows and a repeated one at the end."""
    import zipfile

    with zipfile.ZipFile(flights_raw / "flights.csv.zip") as archive:
        lines = archive.read("flights.csv").splitlines(keepends=True)
    kept = [line for line in lines[1:] if line.startswith((b"2013,1,", b"2013,2,", b"2013,3,"))]
    path = tmp_path_factory.mktemp("killed") / "flights.csv"
    path.write_bytes(b"".join([lines[0], *kept, BAD_LINES.encode(), lines[1]]))
    return path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, source: Path) -> dict[str, pl.DataFrame]:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    process = start(write_spec(folder, source), folder / "scratch")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output.decode()
    return contents(folder)


def reading(folder: Path) -> bool:
    return any((folder / "scratch").glob("*/keys/keys.arrow"))


def publishing_bad_rows(folder: Path) -> bool:
    return (folder / "store/tables/flights_quarantine").is_dir()


def writing_files(folder: Path) -> bool:
    return len(list((folder / "store/tables/flights").glob("ds=*/*.parquet"))) > 5


def committed(folder: Path) -> bool:
    return (folder / "store/tables/flights/_delta_log/00000000000000000001.json").exists()


@pytest.mark.parametrize("moment", [reading, publishing_bad_rows, writing_files, committed])
def test_killed_and_run_again_the_tables_are_those_of_an_undisturbed_run(
    moment: Callable[[Path], bool], tmp_path: Path, source: Path, undisturbed: dict[str, pl.DataFrame]
) -> None:
    folder = tmp_path / "run"
    spec = write_spec(folder, source)
    process = start(spec, folder / "scratch")
    end = time.monotonic() + 120
    while not moment(folder) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    if committed(folder):
        # What readers see of a killed step is all of it or nothing.
        assert contents(folder)["flights"].equals(undisturbed["flights"])
    again = start(spec, folder / "scratch")
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0, output.decode()
    after = contents(folder)
    for name, frame in undisturbed.items():
        assert after[name].equals(frame), name
    assert len(after["flights"]) == 51_955
    assert len(after["flights_quarantine"]) == 3
