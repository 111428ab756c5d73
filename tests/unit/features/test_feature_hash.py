"""The feature hash: changed by what makes other features, and by nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from shop_tables import Shop

from airflow_ml_provider.contract.features import FEATURE_HASH, FeatureSet
from airflow_ml_provider.steps import functions
from airflow_ml_provider.steps.feature_definition import feature_hash


def hash_of(shop: Shop, entry_point: str = "shop:RETURNS") -> str:
    root = shop.write_code()
    found = functions.load(entry_point, (root,))
    assert isinstance(found, FeatureSet)
    return feature_hash(found, entry_point, (root,))


def test_the_hash_is_the_same_for_training_and_prediction_for_all_partitions_and_table_versions(
    shop: Shop,
) -> None:
    shop.build()
    shop.build(labels=False, partitions="2013-06-02", publish="to_predict")
    shop.put("visits", pl.DataFrame(shop.table("visits").lazy().collect().head(2)))
    shop.build(partitions="2013-06-01", publish="later", known_at="2013-06-12")
    hashes = {shop.rows(name)[FEATURE_HASH][0] for name in ("rows", "to_predict", "later")}
    assert hashes == {hash_of(shop)}


def test_editing_the_feature_code_changes_the_hash_and_editing_the_models_does_not(shop: Shop) -> None:
    before = hash_of(shop)
    shop.code(model="def train(): ...")
    assert hash_of(shop) == before
    shop.code("\n    # thought again\n")
    assert hash_of(shop) != before


def test_line_ends_do_not_change_the_hash(shop: Shop, tmp_path: Path) -> None:
    before = hash_of(shop)
    source = tmp_path / "code" / "shop.py"
    source.write_bytes(source.read_bytes().replace(b"\n", b"\r\n"))
    assert hash_of(shop) == before


def test_code_that_a_view_of_another_module_reaches_counts(shop: Shop) -> None:
    variant = """
    from dataclasses import replace
    from shop import SET, VISITS, FeatureSet
    from views.visits import visited

    VARIANT = FeatureSet(**{**SET, "views": (replace(VISITS, function=visited),)})
    """
    views = Path(shop.write_code()) / "views"
    views.mkdir()
    (views / "__init__.py").touch()
    (views / "visits.py").write_text("from views.shares import share\n\ndef visited(visits): ...\n")
    (views / "shares.py").write_text("def share(): ...\n")
    shop.code(variant=variant)
    before = hash_of(shop, "variant:VARIANT")
    (views / "unrelated.py").write_text("def other(): ...\n")
    assert hash_of(shop, "variant:VARIANT") == before
    (views / "shares.py").write_text("def share(): return 2\n")
    assert hash_of(shop, "variant:VARIANT") != before


def view(declared: FeatureSet, /, **changes: Any) -> FeatureSet:
    return replace(declared, views=(replace(declared.views[0], **changes),))


@pytest.mark.parametrize(
    "change",
    [
        lambda declared: view(declared, max_age="1d"),
        lambda declared: view(declared, knowledge_time="visited_at"),
        lambda declared: view(declared, features=("pages",)),
        lambda declared: view(declared, function=declared.rows),
        lambda declared: replace(declared, row_features=()),
        lambda declared: replace(declared, label=None),
        lambda declared: replace(declared, as_known={"visits": declared.rows}),
    ],
)
def test_what_is_declared_counts_where_the_code_is_the_same(
    shop: Shop, change: Callable[[FeatureSet], FeatureSet]
) -> None:
    root = shop.write_code()
    features = functions.load("shop:RETURNS", (root,))
    changed = feature_hash(change(features), "shop:RETURNS", (root,))
    assert changed != feature_hash(features, "shop:RETURNS", (root,))


def test_the_roles_document_of_a_hash_is_always_the_same(shop: Shop, tmp_path: Path) -> None:
    shop.build()
    (document,) = (tmp_path / "store/tables/rows/_ml").glob("features-*.json")
    before = document.read_bytes()
    shop.build(labels=False, partitions="2013-06-02")
    assert document.read_bytes() == before
    assert json.loads(before)["label"] == "returned"
