"""The split of keys: by shares, always the same, and a variant that grows only gains keys."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_ml_provider.contract.assignment import check_split, variant_of
from airflow_ml_provider.contract.errors import ConfigError, DataError
from airflow_ml_provider.steps.assignment import assign

# The fourth letter tells champion from challenger.
FIRST_FORTY = "mlmlmlmmmlmllmmlmlmmmllmmmmmmllmmmmlmmll"
KEYS = pl.DataFrame({"id": range(4_000)})
SALTS = st.text(max_size=8)
NAMES = st.lists(
    st.sampled_from(["champion", "challenger", "7", "blue", "größer"]), min_size=2, max_size=4, unique=True
)


@st.composite
def shares(draw: st.DrawFn) -> dict[str, float]:
    names = draw(NAMES)
    weights = [draw(st.integers(1, 50)) for _ in names]
    return {name: weight / sum(weights) for name, weight in zip(names, weights, strict=True)}


def test_the_function_is_the_documented_one_for_good() -> None:
    """Another program computes these; they must never change."""
    split = {"champion": 0.5, "challenger": 0.5}
    found = assign(pl.DataFrame({"id": range(40)}), ["id"], split, "exp1")
    assert "".join(name[3] for name in found) == FIRST_FORTY
    assert variant_of("EWR\x1f2013-06-05", split, "exp1") == "challenger"


@settings(max_examples=20, deadline=None)
@given(shares=shares(), salt=SALTS, keys=st.lists(st.text(), min_size=1, max_size=50))
def test_a_table_is_split_as_each_key_is(shares: dict[str, float], salt: str, keys: list[str]) -> None:
    found = assign(pl.DataFrame({"key": keys}), ["key"], shares, salt)
    assert found.to_list() == [variant_of(key, shares, salt) for key in keys]


@settings(max_examples=12, deadline=None)
@given(shares=shares(), salt=SALTS)
def test_each_variant_gets_its_share(shares: dict[str, float], salt: str) -> None:
    found = assign(KEYS, ["id"], shares, salt)
    for name, share in shares.items():
        # Six standard deviations of the binomial distribution: once in a billion by chance.
        bound = 6 * math.sqrt(KEYS.height * share * (1 - share))
        assert abs(int((found == name).sum() or 0) - KEYS.height * share) <= bound


@settings(max_examples=12, deadline=None)
@given(shares=shares(), salt=SALTS, growth=st.floats(0.01, 0.99), data=st.data())
def test_a_variant_that_grows_only_gains_keys_and_the_others_keep_the_rest(
    shares: dict[str, float], salt: str, growth: float, data: st.DataObject
) -> None:
    grown = data.draw(st.sampled_from(sorted(shares)))
    left = (1 - shares[grown]) * (1 - growth)
    factor = left / (1 - shares[grown])
    after = {name: 1 - left if name == grown else share * factor for name, share in shares.items()}
    before_of, after_of = (assign(KEYS, ["id"], each, salt) for each in (shares, after))
    moved = before_of != after_of
    assert set(after_of.filter(moved)) <= {grown}


@settings(max_examples=8, deadline=None)
@given(shares=shares(), salt=SALTS, seed=st.integers(0, 2**32 - 1), size=st.integers(60, 400))
def test_order_batches_and_the_order_of_shares_change_nothing(
    shares: dict[str, float], salt: str, seed: int, size: int
) -> None:
    keys = KEYS.head(600)
    whole = dict(zip(keys["id"], assign(keys, ["id"], shares, salt), strict=True))
    shuffled = keys[np.random.default_rng(seed).permutation(keys.height)]
    turned = dict(reversed(shares.items()))
    for part in shuffled.iter_slices(size):
        assert [whole[key] for key in part["id"]] == assign(part, ["id"], turned, salt).to_list()


def test_the_type_that_holds_a_key_changes_nothing() -> None:
    split = {"a": 0.5, "b": 0.5}
    wanted = assign(KEYS, ["id"], split, "s")
    for dtype in (pl.Int16, pl.UInt32, pl.String):
        assert assign(KEYS.cast(dtype), ["id"], split, "s").equals(wanted)
    times = pl.DataFrame({"at": ["2013-06-05T06:00:00"]}).with_columns(pl.col("at").str.to_datetime())
    written = pl.DataFrame({"at": ["2013-06-05T06:00:00.000000Z"]})
    for unit in ("ms", "us", "ns"):
        for zone in (None, "UTC", "America/New_York"):
            at = pl.col("at").dt.replace_time_zone("UTC").dt.cast_time_unit(unit)
            at = at.dt.convert_time_zone(zone) if zone else at.dt.replace_time_zone(None)
            for salt in map(str, range(4)):
                found = assign(times.with_columns(at), ["at"], split, salt)
                assert found.equals(assign(written, ["at"], split, salt))


def test_another_salt_is_another_assignment() -> None:
    split = {"a": 0.5, "b": 0.5}
    first, second = (assign(KEYS, ["id"], split, salt) for salt in ("exp1", "exp2"))
    assert 0.45 < float(np.mean((first == second).to_numpy())) < 0.55


def test_a_key_that_has_no_one_text_is_refused() -> None:
    with pytest.raises(DataError, match="key column 'id': it is Float64"):
        assign(KEYS.cast(pl.Float64), ["id"], {"a": 0.5, "b": 0.5}, "")


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"champion": 1.0}, "1.0 cannot be the share of 'champion'"),
        ({"champion": 0.9}, "needs two variants"),
        ({"champion": 0.9, "challenger": 0.2}, "add up to 1.1, not to 1"),
        ({"champion": 90, "challenger": 10}, "90 cannot be the share of 'champion'"),
        ({"7": 0.5, 7: 0.5}, "each named once"),
        ({"champion": 1.1, "challenger": -0.1}, "cannot be the share"),
        ({"champion": True, "challenger": 0.5}, "cannot be the share"),
    ],
)
def test_shares_that_are_none_are_refused(split: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_split(split)


def test_shares_may_be_thirds_and_tenths() -> None:
    assert check_split({"b": 0.1, "c": 0.2, "a": 0.7}) == {"a": 0.7, "b": 0.1, "c": 0.2}
    assert check_split({"champion": 1 / 3, 7: 2 / 3}) == {"7": 2 / 3, "champion": 1 / 3}
