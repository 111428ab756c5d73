"""Write, audit, publish: rows that a suite refuses are never seen by a reader of the table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from airflow_ml_provider.contract.documents import StepResult
from airflow_ml_provider.contract.store import Store, local_path

SUITE = """
    import great_expectations.expectations as gxe

    def readings():
        return [
            gxe.ExpectTableRowCountToBeBetween(min_value=2),
            gxe.ExpectColumnMeanToBeBetween(column="value", min_value=0, max_value=10),
        ]
"""


@pytest.fixture
def ingest(
    run_step: Callable[..., StepResult], user_code: Callable[..., str], tmp_path: Path
) -> Callable[..., StepResult]:
    user_code(checks=SUITE)

    def run(text: str, day: str, **arguments: Any) -> StepResult:
        source = tmp_path / "readings.csv"
        source.write_text("ds,value\n" + text)
        given = {
            "source": str(source),
            "schema": {"columns": [{"name": "ds"}, {"name": "value", "type": "float64"}]},
            "publish": {"name": "readings"},
            "partitions": day,
            "suite": "checks:readings",
            **arguments,
        }
        return run_step("ingest", given, step_key=f"ingest-{day}")

    return run


def test_rows_that_fail_their_audit_stay_aside_and_the_table_is_as_it_was(
    ingest: Callable[..., StepResult], store: str
) -> None:
    assert ingest("d1,1\nd1,2\n", "d1").status == "success"
    result = ingest("d1,1\nd1,999\n", "d1")
    failure = result.failure
    assert failure is not None
    assert failure.kind == "data"
    aside = f"{store}/aside/readings/ingest-d1"
    assert failure.message.startswith(
        "1 of 2 expectations of 'checks:readings' failed over the new rows of table readings in ds = d1, "
        "which are not published:\n  expect_column_mean_to_be_between(value): observed 500.0"
    )
    assert f"table readings is as it was; the rows are kept aside in {aside}" in failure.message
    assert result.verdict is not None
    assert (result.verdict["success"], result.verdict["rows"]) == (False, 2)
    assert Store(store).latest_version("readings") == 1
    table = local_path(Store(store).table_uri("readings"))
    assert pl.read_delta(str(table))["value"].to_list() == [1, 2]
    assert pl.read_delta(str(local_path(aside)))["value"].to_list() == [1, 999]
    page = local_path(result.links["Data Docs"]).read_text()
    assert "1 of 2 expectations failed" in page


def test_a_first_publication_that_fails_its_audit_leaves_no_table(
    ingest: Callable[..., StepResult], store: str
) -> None:
    assert ingest("d1,1\n", "d1").status == "failed"
    assert Store(store).latest_version("readings") is None


def test_corrected_rows_are_published_and_nothing_stays_aside(
    ingest: Callable[..., StepResult], store: str
) -> None:
    ingest("d1,1\nd1,999\n", "d1")
    result = ingest("d1,1\nd1,9\n", "d1")
    assert result.status == "success", result.failure
    table = local_path(Store(store).table_uri("readings"))
    assert pl.read_delta(str(table)).rows() == [("d1", 1.0), ("d1", 9.0)]
    assert list(Store(store).paths("aside")) == []
    assert "All 2 expectations passed" in local_path(result.links["Data Docs"]).read_text()


def test_another_suite_audits_the_same_bytes_again(ingest: Callable[..., StepResult], tmp_path: Path) -> None:
    text = "d1,1\nd1,9\n"
    assert ingest(text, "d1").status == "success"
    assert "already ingested" in ingest(text, "d1").summary
    stricter = SUITE.replace("max_value=10", "max_value=4")
    (tmp_path / "code" / "checks.json").write_text(
        '{"name": "j", "expectations": [{"type": "expect_column_max_to_be_between",'
        ' "kwargs": {"column": "value", "max_value": 4}}]}'
    )
    assert stricter != SUITE
    failure = ingest(text, "d1", suite="checks.json").failure
    assert failure is not None
    assert "expect_column_max_to_be_between(value): observed 9.0" in failure.message
