"""Tables, models, gates, partitions, identities: the names a DAG author writes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ml_provider.contract.errors import ConfigError, MLError
from airflow_ml_provider.contract.gates import Gate
from airflow_ml_provider.contract.identity import digest, explain_difference, fingerprint, step_key
from airflow_ml_provider.contract.models import Model, as_model
from airflow_ml_provider.contract.partitions import parse_partitions
from airflow_ml_provider.contract.schema import Column, Schema
from airflow_ml_provider.contract.tables import Table, as_table


def test_a_range_of_days_has_both_ends() -> None:
    days = parse_partitions("2013-02-27..2013-03-02")
    assert days.values == ("2013-02-27", "2013-02-28", "2013-03-01", "2013-03-02")
    assert days.predicate("ds") == "ds >= '2013-02-27' AND ds <= '2013-03-02'"


def test_a_list_keeps_its_order_and_drops_repeats() -> None:
    assert parse_partitions("EWR, JFK,EWR").values == ("EWR", "JFK")
    assert parse_partitions(["EWR", "JFK"]).predicate("origin") == "origin IN ('EWR', 'JFK')"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no partition was named"),
        ("2013-06-30..2013-06-01", "has -28 days"),
        ("June..July", "is not a range of days"),
        ("x' OR '1'='1", "cannot be a partition value"),
        ("a;b", "cannot be a partition value"),
        ("../../etc", "is not a range of days"),
    ],
)
def test_what_is_no_partition_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_partitions(text)


@given(st.text(max_size=30))
def test_no_text_gets_a_quote_into_a_predicate(text: str) -> None:
    try:
        predicate = parse_partitions(text).predicate("ds")
    except MLError:
        return
    inside = predicate.split("(", 1)[-1].rstrip(")") if "IN" in predicate else predicate
    assert inside.count("'") % 2 == 0
    assert "''" not in inside
    assert ";" not in predicate
    assert "\\" not in predicate


def test_a_table_is_taken_in_every_form_an_author_writes() -> None:
    upstream = {"verb": "validate", "table": {"name": "flights", "version": 4, "partition_by": "ds"}}
    assert as_table(upstream) == Table("flights", "ds", 4)
    assert as_table("flights") == Table("flights")
    assert as_table("flights@4").version == 4
    assert as_table({"name": "planes", "partition_by": None}) == Table("planes", None)


def test_the_output_of_a_step_without_a_table_is_refused_by_its_verb() -> None:
    with pytest.raises(ConfigError, match="output of a train step, which published no table"):
        as_table({"verb": "train", "model": {"name": "m", "version": 1}})


@pytest.mark.parametrize("name", ["", "Flights", "../x", "a-b", "1st", "a b"])
def test_a_bad_table_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a table name"):
        Table(name)


def test_a_model_is_taken_in_every_form_an_author_writes() -> None:
    assert as_model("m").alias == "champion"
    assert as_model("m@challenger").alias == "challenger"
    assert as_model("m/3").version == 3
    assert as_model({"verb": "train", "model": {"name": "m", "version": 3}}).version == 3
    with pytest.raises(ConfigError, match="output of a ingest step, which has no model"):
        as_model({"verb": "ingest", "table": {"name": "x"}})


def test_a_gate_on_an_unknown_metric_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'roc_auc'"):
        Gate("roc_aux", at_least=0.7)
    with pytest.raises(ConfigError, match="states no condition"):
        Gate("roc_auc")


def test_a_gate_reads_as_a_sentence() -> None:
    gate = Gate("roc_auc", at_least=0.7, worse_by_at_most=0.005, slice_by="origin")
    assert str(gate) == "roc_auc >= 0.7 and roc_auc at most 0.005 worse than the champion in every origin"


def test_a_schema_refuses_doubles_and_foreign_keys() -> None:
    with pytest.raises(ConfigError, match="declares a column twice: a"):
        Schema((Column("a"), Column("a")))
    with pytest.raises(ConfigError, match="key names columns it does not declare: b"):
        Schema((Column("a"),), key=("b",))


def test_a_step_key_is_a_kubernetes_name_and_ignores_the_try() -> None:
    key = step_key("flights_train", "features", "manual__2013-06-01T00:00:00+00:00")
    assert key == step_key("flights_train", "features", "manual__2013-06-01T00:00:00+00:00")
    assert key.startswith("flights-train-features-")
    assert len(step_key("d" * 250, "t" * 250, "r")) <= 63
    assert step_key("d", "t", "r", 1) != step_key("d", "t", "r", 2)
    assert step_key("a-b", "c", "r") != step_key("a", "b-c", "r")


@given(st.lists(st.text()), st.lists(st.text()))
def test_digests_of_different_parts_differ(one: list[str], other: list[str]) -> None:
    assert (digest(*one) == digest(*other)) == (one == other)


def test_a_fingerprint_miss_is_explained_part_by_part() -> None:
    before = {"code": digest("a"), "tables": {"flights": 41}, "seed": 0}
    now = {"code": digest("b"), "tables": {"flights": 42}, "seed": 0}
    assert fingerprint(before) != fingerprint(now)
    said = explain_difference(before, now)
    assert (
        said
        == f'code: {digest("a")[:8]} -> {digest("b")[:8]}; tables: {{"flights": 41}} -> {{"flights": 42}}'
    )


def test_an_error_says_what_was_kept_what_a_retry_does_and_what_is_next() -> None:
    text = str(ConfigError("no store", kept="all", todo="set it"))
    assert text.splitlines() == [
        "no store",
        "  kept: all",
        "  retry: not retried: the same settings would fail the same way",
        "  next: set it",
    ]


def test_a_model_name_cannot_be_a_path() -> None:
    with pytest.raises(ConfigError, match="cannot be a model name"):
        Model("a/b")
