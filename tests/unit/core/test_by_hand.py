"""All eight steps by hand, raw files to monitored predictions, in a process that cannot import Airflow."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from airflow_ml_provider.contract.documents import read_result, read_spec

DAGS = Path(__file__).parents[3] / "dags"
RUN_ALL = """
import sys
sys.modules["airflow"] = None  # importing it fails
from airflow_ml_provider.cli import main
for spec in sys.argv[1:]:
    if code := main(["run-step", "--spec", spec]):
        sys.exit(code)
print("imported:", *{name.partition(".")[0] for name in sys.modules})
"""


def test_the_eight_steps_run_by_their_specs_without_airflow(
    tmp_path: Path, flights_raw: Path, mlflow_uri: str
) -> None:
    tables = [{"name": name} for name in ("flights", "weather", "planes")]
    model = {"name": "late_by_hand"}

    def ingest(source: str, schema: str, transform: str | None, **more: Any) -> dict[str, Any]:
        arguments = {"source": str(flights_raw / source), "schema": f"flights.schemas:{schema}", **more}
        return arguments | ({"transform": f"flights.ingest:{transform}"} if transform else {})

    days = "2013-01-01..2013-01-28"
    steps: list[tuple[str, dict[str, Any]]] = [
        ("ingest", ingest("flights.csv.zip", "FLIGHTS", "by_departure_day",
                          partitions=days, publish=tables[0])),
        ("ingest", ingest("weather.csv", "WEATHER", "by_observation_day",
                          partitions=days, publish=tables[1])),
        ("ingest", ingest("planes.csv", "PLANES", None, publish={"name": "planes", "partition_by": None})),
        ("validate", {"table": tables[0], "suite": "flights.expectations:flights"}),
        ("features", {"features": "flights.features:LATE_ARRIVAL", "tables": tables,
                      "publish": {"name": "rows"}, "partitions": "2013-01-01..2013-01-27"}),
        ("train", {"function": "flights.model:train", "table": {"name": "rows"}, "model": model,
                   "partitions": "2013-01-01..2013-01-20", "params": {"rounds": 20}}),
        ("evaluate", {"candidate": {"name": "late_by_hand", "version": 1}, "table": {"name": "rows"},
                      "partitions": "2013-01-21..2013-01-27",
                      "gates": [{"metric": "roc_auc", "at_least": 0.6}]}),
        ("features", {"features": "flights.features:LATE_ARRIVAL", "tables": tables, "labels": False,
                      "publish": {"name": "to_predict"}, "partitions": "2013-01-28"}),
    ]  # fmt: skip
    specs = [write(tmp_path, n, verb, arguments, mlflow_uri) for n, (verb, arguments) in enumerate(steps)]
    run(specs)
    # Promote takes the verdict that evaluate has left, as it would from XCom.
    verdict = result(tmp_path, specs[6]).manifest()
    rest: list[tuple[str, dict[str, Any]]] = [
        ("promote", {"verdict": verdict, "promoted_by": "a person"}),
        ("predict", {"model": model, "table": {"name": "to_predict"}, "publish": {"name": "predictions"},
                     "partitions": "2013-01-28"}),
        ("monitor", {"predictions": {"name": "predictions"}, "rows": {"name": "to_predict"},
                     "tables": [tables[0]], "partitions": "2013-01-28"}),
    ]  # fmt: skip
    later = [write(tmp_path, 10 + n, verb, arguments, mlflow_uri) for n, (verb, arguments) in enumerate(rest)]
    # Its own package takes seconds to import; what these three ask of a server goes without it.
    assert not {"mlflow", "great_expectations"} & run(later)
    predicted = result(tmp_path, later[1])
    assert predicted.table is not None
    assert predicted.table.rows > 800
    assert result(tmp_path, later[2]).verdict is not None


def write(folder: Path, number: int, verb: str, arguments: dict[str, Any], mlflow: str) -> Path:
    path = folder / f"{number}-{verb}.json"
    document = {
        "verb": verb,
        "store": (folder / "store").as_uri(),
        "arguments": arguments,
        "code": {"roots": [str(DAGS)]},
        "tracking": {"uri": mlflow, "experiment": "by hand"},
    }
    path.write_text(json.dumps(document))
    return path


def run(specs: list[Path]) -> set[str]:
    """Run steps one after the other in one process; gives the packages that it imported."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(RUN_ALL), *map(str, specs)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return set(done.stdout.rpartition("imported:")[2].split())


def result(folder: Path, spec: Path) -> Any:
    key = read_spec(spec.read_bytes(), source=str(spec)).step_key
    return read_result((folder / "store" / "runs" / key / "result.json").read_bytes(), source=key)
