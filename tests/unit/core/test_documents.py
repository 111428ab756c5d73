"""Specs and results: what crosses between Airflow and a step."""

from __future__ import annotations

import json

import pytest

from airflow_ml_provider.contract.documents import PROTOCOL, StepResult, StepSpec, read_result, read_spec
from airflow_ml_provider.contract.errors import ConfigError

BY_HAND = {
    "verb": "validate",
    "store": "/tmp/x",
    "arguments": {"table": {"name": "flights"}, "suite": "a.b:c"},
}


def encoded(**changes: object) -> bytes:
    return json.dumps({**BY_HAND, **changes}).encode()


def test_a_spec_written_by_hand_needs_only_verb_store_and_arguments() -> None:
    spec = read_spec(encoded(), source="by-hand.json")
    assert spec.step_key.startswith("by-hand-validate-")
    assert spec.fingerprint
    assert read_spec(encoded(), source="x").step_key == spec.step_key
    assert read_spec(encoded(seed=1), source="x").step_key != spec.step_key


def test_a_spec_survives_the_way_through_the_store() -> None:
    spec = read_spec(encoded(), source="x")
    assert read_spec(spec.encode(), source="y") == spec


def test_another_protocol_is_refused_with_both_numbers() -> None:
    with pytest.raises(ConfigError, match=rf"protocol 7; this installation speaks protocol {PROTOCOL}"):
        read_spec(encoded(protocol=7), source="new.json")


def test_a_misspelt_verb_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'validate'"):
        read_spec(encoded(verb="validat"), source="x")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"table": {"name": "flights"}}, "missing required field `suite`"),
        ({"table": {"name": "flights"}, "suite": 3}, r"Expected `str`, got `int` - at `\$.suite`"),
        ({"table": {"name": "flights"}, "suite": "a:b", "tabel": 1}, "unknown field `tabel`"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_spec(encoded(arguments=arguments), source="x")


def test_what_is_not_json_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"broken\.json is not a spec"):
        read_spec(b"{", source="broken.json")


def test_a_half_written_result_is_no_result() -> None:
    whole = StepResult("train", "key", "mark", "success").encode()
    with pytest.raises(ConfigError, match="is not a result"):
        read_result(whole[: len(whole) // 2], source="result.json")


def test_the_manifest_for_xcom_has_references_and_no_internals() -> None:
    result = StepResult("train", "key", "mark", "success", parts={"code": "x"}, metrics={"roc_auc": 0.7})
    manifest = result.manifest()
    assert manifest["metrics"] == {"roc_auc": 0.7}
    assert "parts" not in manifest
    json.dumps(manifest)


def test_equal_specs_are_equal_bytes() -> None:
    one = StepSpec("validate", "/x", {"a": 1, "b": 2})
    other = StepSpec("validate", "/x", {"b": 2, "a": 1})
    assert one.encode() == other.encode()
