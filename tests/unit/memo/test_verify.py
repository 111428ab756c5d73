"""cache="verify" computes a part again, compares, and changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from memo_world import DAYS, Shop, run

from airflow_ml_provider.contract.errors import DataError

# Drawn from the machine's own noise: seeds do not help.
RANDOM = """
    import os
    import polars as pl
    from airflow_ml_provider import FeatureSet

    def orders(raw: pl.LazyFrame) -> pl.LazyFrame:
        drawn = int.from_bytes(os.urandom(4))
        at = pl.col("at").str.to_datetime(time_zone="UTC")
        return raw.select("id", "ds", "amount", at, drawn=pl.col("amount") + drawn)

    SET = FeatureSet(rows=orders, key=("id",), prediction_time="at", row_features=("amount", "drawn"), views=())
    """


def everything(shop: Shop) -> dict[str, bytes | None]:
    """The store but for the folders of runs and the notes of what tasks were made of."""
    own = ("runs/", "memo/tasks/")
    return {path: shop.store.read(path) for path in shop.store.paths("") if not path.startswith(own)}


def test_a_deterministic_step_is_verified_by_one_partition_and_nothing_changes(shop: Shop) -> None:
    first = run(shop.features(), "run_1")
    before = everything(shop)
    again = run(shop.features(cache="verify"), "run_2")
    assert shop.compute.verbs == ["features", "features?"]
    assert again["cache"]["decision"] == "verified"
    assert again["cache"]["made_by"]["run_id"] == "run_1"
    assert again["table"]["version"] == first["table"]["version"]
    assert everything(shop) == before
    said = next(
        path for path in shop.store.paths("runs") if "-verify-" in path and path.endswith("result.json")
    )
    assert shop.store.read_json(said)["summary"]["verified"].startswith("partition 2013-01-0")


def test_a_step_that_draws_at_random_is_found_out_and_its_column_named(shop: Shop) -> None:
    shop.write("noisy", RANDOM)
    run(shop.features(features="noisy:SET"), "run_1")
    before = everything(shop)
    with pytest.raises(DataError, match="the features step is not deterministic") as caught:
        run(shop.features(features="noisy:SET", cache="verify"), "run_2")
    assert "rows differs in drawn (10 rows)" in str(caught.value)
    assert not caught.value.retryable
    assert "nothing was changed" in caught.value.kept
    assert everything(shop) == before


def test_what_is_not_known_yet_is_computed_and_not_verified(shop: Shop) -> None:
    assert run(shop.features(cache="verify"), "run_1")["cache"]["decision"] == "miss"
    assert shop.compute.verbs == ["features"]


def test_which_partition_is_computed_depends_on_the_fingerprint_alone(shop: Shop) -> None:
    for seed in range(3):
        mark = run(shop.features(seed=seed), f"run_{seed}")["fingerprint"]
        chosen = DAYS[int(mark[:12], 16) % 2]
        for again in ("a", "b"):
            run(shop.features(seed=seed, cache="verify"), f"{again}_{seed}")
            key = shop.compute.launches[-1].step_key
            said = shop.store.read_json(f"runs/{key}/result.json")["summary"]["verified"]
            assert said == f"partition {chosen} is the same when it is computed again"


def test_an_ingestion_is_verified_with_its_quarantine_untouched(shop: Shop, tmp_path: Path) -> None:
    source = tmp_path / "orders.csv"
    source.write_text("id,ds\n1,2013-01-01\nx,2013-01-01\n")
    while run(shop.ingest(source, max_bad_rows=1), "run_1")["cache"]["why"] == "looking for new input":
        pass
    before = everything(shop)
    output = run(shop.ingest(source, max_bad_rows=1, cache="verify"), "run_2")
    assert output["cache"]["decision"] == "verified"
    assert everything(shop) == before


def test_a_validation_is_verified_by_its_verdict(shop: Shop) -> None:
    run(shop.validate(), "run_1")
    assert run(shop.validate(cache="verify"), "run_2")["cache"]["decision"] == "verified"
    assert shop.compute.verbs == ["validate", "validate?"]
