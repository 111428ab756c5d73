"""Suites over a pinned table: the verdict, the gate, the page; and what is wrong with a suite."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from airflow_ml_provider.contract.documents import Publication, StepResult, StepSpec
from airflow_ml_provider.contract.partitions import parse_partitions
from airflow_ml_provider.contract.store import Store, local_path
from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.steps import expectations, tables
from airflow_ml_provider.steps.context import StepContext

RunStep = Callable[..., StepResult]
Validate = Callable[..., StepResult]

SUITES = """
    import great_expectations as gx
    import great_expectations.expectations as gxe

    passing = gx.ExpectationSuite(name="orders", expectations=[
        gxe.ExpectTableRowCountToBeBetween(min_value=2, max_value=9),
        gxe.ExpectColumnValuesToNotBeNull(column="id"),
        gxe.ExpectColumnMeanToBeBetween(column="amount", min_value=0, max_value=10),
        gxe.ExpectTableColumnsToMatchSet(column_set=["id", "amount", "note", "ds", "paid"]),
    ])

    def failing():
        return [
            gxe.ExpectColumnValuesToBeBetween(column="amount", min_value=0, max_value=5),
            gxe.ExpectColumnValuesToBeInSet(column="note", value_set=["a", "b"], mostly=0.9),
            gxe.ExpectCompoundColumnsToBeUnique(column_list=["ds", "id"]),
            gxe.ExpectColumnToExist(column="missing"),
            gxe.ExpectColumnMeanToBeBetween(column="amount", min_value=100),
            gxe.ExpectColumnValuesToNotBeNull(
                column="amount", row_condition="paid == True", condition_parser="pandas"
            ),
            gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="amount", column_B="id", or_equal=True),
            gxe.ExpectColumnDistinctValuesToBeInSet(column="ds", value_set=["d1"]),
        ]

    single = gxe.ExpectColumnValuesToBeUnique(column="id")
    misnamed = [gxe.ExpectColumnValuesToNotBeNull(column="amout")]
    of_wrong_type = [gxe.ExpectColumnValuesToBeBetween(column="note", min_value=3)]
    nothing = []
    no_suite = {"expect": "much"}

    def raising():
        raise LookupError("the thresholds are gone")

    def asking(threshold):
        return []
"""


@pytest.fixture
def orders(store: str, tmp_path: Path) -> Callable[[dict[str, list[Any]], str], Publication]:
    """Publishes rows as days of the table orders."""
    step = StepContext(StepSpec("ingest", store, {}, step_key="orders"), tmp_path)

    def publish(rows: dict[str, list[Any]], days: str) -> Publication:
        frame = pl.LazyFrame(
            {"id": [], "amount": [], "note": [], "paid": [], "ds": []} | rows,
            schema={
                "id": pl.Int64,
                "amount": pl.Int64,
                "note": pl.String,
                "paid": pl.Boolean,
                "ds": pl.String,
            },
        )
        return tables.publish(
            step,
            Table("orders"),
            tables.batches_of(frame),
            partitions=parse_partitions(days),
            content=str(rows),
        )

    return publish


@pytest.fixture
def some_orders(orders: Callable[[dict[str, list[Any]], str], Publication]) -> Publication:
    """Five orders of two days."""
    return orders(
        {
            "id": [1, 2, 3, 3, None],
            "amount": [1, None, 7, 9, 2],
            "note": ["a", "b", "<img src=x onerror=alert(1)>", "b", None],
            "paid": [True, False, True, None, True],
            "ds": ["d1", "d1", "d2", "d2", "d2"],
        },
        "d1,d2",
    )


@pytest.fixture
def validate(run_step: RunStep, user_code: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Validate:
    """Runs a validate step over the table orders with a suite of the module ``suites``."""
    user_code(suites=SUITES)
    # MLflow itself sets this once a test has used it.
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(suite: str, *, mlflow: str = "", version: int | None = None, **arguments: Any) -> StepResult:
        table = {"name": "orders", "version": version}
        suite = suite if "." in suite or "{" in suite else f"suites:{suite}"
        return run_step("validate", {"table": table, "suite": suite, **arguments}, mlflow=mlflow)

    return run


def page_of(result: StepResult) -> str:
    return local_path(result.links["Data Docs"]).read_text(encoding="utf-8")


def test_a_table_that_passes_is_the_output_with_its_version_and_verdict(
    validate: Validate, some_orders: Publication
) -> None:
    result = validate("passing", partitions="d1", version=some_orders.version)
    assert result.status == "success", result.failure
    assert result.table is not None
    assert (result.table.version, result.table.partitions, result.table.rows) == (
        some_orders.version,
        "d1",
        2,
    )
    verdict = result.verdict
    assert verdict is not None
    head = {key: value for key, value in verdict.items() if key not in ("version", "expectations")}
    assert head == {
        "success": True, "suite": "orders", "table": "orders", "partitions": "d1", "rows": 2, "evaluated": 4,
        "failed": 0,
    }  # fmt: skip
    assert [one["type"] for one in verdict["expectations"]] == [
        "expect_table_row_count_to_be_between",
        "expect_column_values_to_not_be_null",
        "expect_column_mean_to_be_between",
        "expect_table_columns_to_match_set",
    ]
    assert verdict["expectations"][0]["observed"] == 2
    assert result.summary["verdict"] == "all 4 expectations of 'orders' passed"


def test_the_gate_lists_what_failed_with_counts_and_examples(
    validate: Validate, some_orders: Publication
) -> None:
    result = validate("failing")
    assert result.failure is not None
    assert (result.failure.kind, result.failure.error) == ("data", "ExpectationsFailed")
    said = result.failure.message
    assert said.startswith("7 of 8 expectations of 'suites:failing' failed over table orders@1:\n")
    for line in (
        "expect_column_values_to_be_between(amount): 2 unexpected of 5 rows (50 %), such as 7, 9",
        "expect_column_values_to_be_in_set(note): 1 unexpected of 5 rows (25 %), such as '<img src=x",
        "expect_compound_columns_to_be_unique(ds, id): 2 unexpected of 5 rows (",
        "expect_column_to_exist(missing): does not hold",
        "expect_column_mean_to_be_between(amount): observed 4.75",
        "expect_column_pair_values_a_to_be_greater_than_b(amount, id): 2 unexpected of 5 rows (40 %), ",
        "expect_column_distinct_values_to_be_in_set(ds): 1 unexpected of 5 rows, such as 'd2'",
    ):
        assert f"\n  {line}" in said
    assert f"Data Docs: {result.links['Data Docs']}" in said
    assert result.verdict is not None
    assert result.verdict["failed"] == 7
    assert not result.verdict["success"]
    json.dumps(result.verdict)


def test_without_the_gate_the_run_goes_on_and_the_verdict_tells(
    validate: Validate, some_orders: Publication
) -> None:
    result = validate("failing", fail=False)
    assert result.status == "success"
    assert result.verdict is not None
    assert result.verdict["failed"] == 7
    assert result.metrics["failed"] == 7
    assert result.table is not None


def test_data_docs_are_one_page_that_asks_nobody_for_anything(
    validate: Validate, some_orders: Publication
) -> None:
    page = page_of(validate("failing", fail=False))
    assert "7 of 8 expectations failed" in page
    assert "amount" in page
    assert "unexpected values found" in page
    assert not re.search(r"<(script|link|iframe|img)\b", page)
    assert not re.search(r"""(src|href)=["']?(https?:|//|\.\./)""", page)
    assert "default-src 'none'" in page
    assert "&lt;img src=x" in page
    assert "d2, 3" in page


def test_the_verdict_is_the_same_in_one_pass_and_in_many(
    validate: Validate, some_orders: Publication, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = validate("failing", fail=False).verdict
    monkeypatch.setattr(expectations, "PASS_BYTES", 1)
    assert validate("failing", fail=False).verdict == together


def test_a_pass_reads_only_columns_that_its_expectations_name() -> None:
    import great_expectations.expectations as gxe

    schema = pl.Schema({"a": pl.Int64, "b": pl.String, "c": pl.Float64, "unused": pl.String})
    suite = [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        gxe.ExpectColumnValuesToBeUnique(column="b"),
        gxe.ExpectColumnMeanToBeBetween(column="c", row_condition='b == "x"', condition_parser="pandas"),
        gxe.ExpectColumnToExist(column="unused"),
        gxe.ExpectColumnValuesToNotBeNull(column="a"),
    ]
    roomy = expectations.passes_of(dict(enumerate(suite)), schema, rows=10)
    assert [(sorted(one.columns), one.places) for one in roomy if not one.no_rows] == [
        (["a", "b", "c"], [0, 1, 2, 4])
    ]
    tight = expectations.passes_of(dict(enumerate(suite)), schema, rows=1 << 40)
    assert [(sorted(one.columns), one.places) for one in tight if not one.no_rows] == [
        (["a"], [0, 4]),
        (["b"], [1]),
        (["b", "c"], [2]),
    ]
    assert [one.places for one in tight if one.no_rows] == [[3]]


def test_an_older_version_is_validated_when_it_is_pinned(
    validate: Validate, some_orders: Publication, orders: Callable[[dict[str, list[Any]], str], Publication]
) -> None:
    worse = orders({"id": [None], "amount": [1], "note": [None], "paid": [True], "ds": ["d1"]}, "d1")
    assert validate("passing", partitions="d1", version=some_orders.version).status == "success"
    assert validate("passing", partitions="d1", version=worse.version).status == "failed"


def test_a_partition_without_rows_is_skipped(validate: Validate, some_orders: Publication) -> None:
    result = validate("passing", partitions="d7")
    assert result.status == "skipped"
    assert result.reason == "table orders version 1 has no rows in ds = d7"


def test_a_suite_may_be_a_json_document_beside_the_code(
    validate: Validate, some_orders: Publication, tmp_path: Path
) -> None:
    document = {
        "name": "from a file",
        "expectations": [
            {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "id"}, "meta": {}}
        ],
    }
    (tmp_path / "code" / "checks").mkdir()
    (tmp_path / "code" / "checks" / "orders.json").write_text(json.dumps(document))
    result = validate("checks/orders.json")
    assert result.failure is not None
    assert "1 of 1 expectations of 'from a file' failed" in result.failure.message
    assert (
        "expect_column_values_to_be_unique(id): 2 unexpected of 5 rows (50 %), such as 3"
        in result.failure.message
    )
    assert validate(json.dumps(document), fail=False).verdict == result.verdict


def test_a_single_expectation_is_a_suite_too(validate: Validate, some_orders: Publication) -> None:
    verdict = validate("single", fail=False).verdict
    assert verdict is not None
    assert verdict["suite"] == "suites:single"
    assert verdict["evaluated"] == 1


@pytest.mark.parametrize(
    ("suite", "kind", "message"),
    [
        ("misnamed", "data", "for column 'amout', which table orders@1 does not have"),
        ("misnamed", "data", "did you mean 'amount'"),
        ("of_wrong_type", "user", "expect_column_values_to_be_between(note) cannot be evaluated over table"),
        ("nothing", "user", "suite 'suites:nothing' (suites:nothing) has no expectation"),
        ("no_suite", "user", "suites:no_suite gives dict, not a suite"),
        ("raising", "user", "suites:raising raised LookupError: the thresholds are gone"),
        ("asking", "user", "suites:asking takes parameters; a suite's function takes none"),
        ("pasing", "user", "did you mean 'passing'"),
        ("nowhere.json", "user", "there is no suite nowhere.json"),
        ('{"name": "x"', "user", "is not a suite: JSONDecodeError"),
        ('{"name": "x"}', "user", "is not a suite: KeyError: 'expectations'"),
        ('{"expectations": [{"type": "expect_colum_to_exist"}]}', "user", "mean 'expect_column_to_exist'"),
        (
            '{"expectations": [{"type": "expect_column_to_exist", "kwargs": {"colum": "id"}}]}',
            "user",
            "(expect_column_to_exist) is wrong: ",
        ),
    ],
)  # fmt: skip
def test_a_suite_that_cannot_be_used_says_why(
    validate: Validate, some_orders: Publication, suite: str, kind: str, message: str
) -> None:
    failure = validate(suite).failure
    assert failure is not None
    assert failure.kind == kind
    assert message in failure.message
    if suite == "raising":
        assert 'raise LookupError("the thresholds are gone")' in failure.traceback


def test_a_table_that_is_not_there_is_told(validate: Validate) -> None:
    failure = validate("passing").failure
    assert failure is not None
    assert "there is no table 'orders'" in failure.message


def test_with_mlflow_the_page_and_the_verdict_are_in_the_run(
    validate: Validate, some_orders: Publication, mlflow_uri: str
) -> None:
    from mlflow import MlflowClient

    first = validate("failing", mlflow=mlflow_uri)
    again = validate("failing", mlflow=mlflow_uri)
    assert first.failure is not None
    assert first.links["MLflow run"] == again.links["MLflow run"]
    assert first.links["Data Docs"] == first.links["MLflow run"] + "/artifacts/data_docs.html"
    client = MlflowClient(mlflow_uri)
    run = client.get_run(first.links["MLflow run"].rsplit("/", 1)[-1])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["failed"] == 7
    assert run.data.params["table"] == "orders@1"
    assert run.data.tags["airflow_ml.success"] == "false"
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        "data_docs.html",
        "verdict.json",
    }


def test_an_unreachable_mlflow_is_worth_a_retry(
    validate: Validate, some_orders: Publication, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    failure = validate("passing", mlflow="http://127.0.0.1:9").failure
    assert failure is not None
    assert failure.kind == "transient"
    assert "MLflow at http://127.0.0.1:9 is not reachable" in failure.message


def test_great_expectations_reports_nothing_to_anybody(validate: Validate, some_orders: Publication) -> None:
    import os

    validate("passing")
    assert os.environ["GX_ANALYTICS_ENABLED"] == "false"


def test_the_page_is_kept_with_the_step(validate: Validate, some_orders: Publication, store: str) -> None:
    result = validate("passing", partitions="d1")
    kept = Store(store).read(f"runs/{result.step_key}/data_docs.html")
    assert kept is not None
    assert b"All 4 expectations passed" in kept
