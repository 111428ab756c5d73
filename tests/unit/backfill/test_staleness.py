"""Whether a partition is what it would be now: a pure decision, held against its rules."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from airflow_ml_provider.contract.staleness import (
    Difference,
    Followed,
    Judgement,
    Made,
    Present,
    Published,
    Read,
    TableNow,
    judge,
    worst,
)

DAYS = [f"2013-06-{n:02}" for n in range(1, 6)]
NAMES = st.sampled_from(["flights", "weather", "planes", "airlines"])
SETTINGS = st.dictionaries(
    st.sampled_from(["code", "package", "seed", "suite", "batch_rows", "publish"]),
    st.one_of(st.text(max_size=5), st.integers(), st.none(), st.lists(st.integers(), max_size=2)),
    max_size=5,
)
READS = st.lists(
    st.builds(
        Read,
        table=NAMES,
        version=st.integers(1, 50),
        partition=st.sampled_from([*DAYS, ""]),
        clock=st.sampled_from(["same", "until", "from"]),
    ),
    max_size=4,
    unique_by=lambda read: read.table,
)
MODELS = st.lists(
    st.builds(
        Followed, name=NAMES, alias=st.sampled_from(["champion", "challenger"]), version=st.integers(1, 9)
    ),
    max_size=2,
    unique_by=str,
)
PUBLISHED = st.none() | st.builds(
    Published, table=st.just("predictions"), version=st.integers(1, 50), partition=st.sampled_from(DAYS)
)
MADE = st.builds(
    Made, settings=SETTINGS, reads=READS.map(tuple), models=MODELS.map(tuple), published=PUBLISHED
)


@st.composite
def unchanged_since(draw: st.DrawFn, made: Made) -> Present:
    """A present in which nothing that was used has changed, whatever else has."""
    tables: dict[str, TableNow] = {}
    for read in made.reads:
        days = [""] if not read.partition and draw(st.booleans()) else DAYS
        changes = draw(st.dictionaries(st.sampled_from(days), st.integers(0, read.version)))
        newest = draw(st.integers(read.version, read.version + 5))
        if read.partition and newest > read.version and read.clock == "same":
            changes |= {day: newest for day in DAYS if day != read.partition and draw(st.booleans())}
        tables[read.table] = TableNow(newest, changes)
    if made.published is not None:
        own = made.published
        tables[own.table] = TableNow(
            own.version + 1, {own.partition: own.version, "1999-01-01": own.version + 1}
        )
    models: dict[str, int | None] = {str(model): model.version for model in made.models}
    return Present(dict(made.settings), tables, models)


@given(st.data())
def test_a_partition_made_from_exactly_the_present_parts_is_fine(data: st.DataObject) -> None:
    made = data.draw(MADE)
    present = data.draw(unchanged_since(made))
    assert judge(made, present) == Judgement("fine")
    assert judge(made, present, strict=True) == Judgement("fine")


@given(st.data())
def test_any_one_part_that_changed_makes_it_stale_and_is_named(data: st.DataObject) -> None:
    made = data.draw(MADE)
    present = data.draw(unchanged_since(made))
    changes = [
        (name, replaced(present, settings={**present.settings, name: "something else"}))
        for name in made.settings
    ]
    changes.append(("added", replaced(present, settings={**present.settings, "added": 1})))
    for read in made.reads:
        table = present.tables[read.table]
        later = table.version + 1
        moved = TableNow(later, {**table.changes, read.partition or DAYS[0]: later})
        part = f"data {read.table}"
        changes.append((part, replaced(present, tables={**present.tables, read.table: moved})))
        gone = {name: one for name, one in present.tables.items() if name != read.table}
        changes.append((part, replaced(present, tables=gone)))
    for model in made.models:
        for version in (model.version + 1, None):
            moved_alias = {**present.models, str(model): version}
            changes.append((f"model {model}", replaced(present, models=moved_alias)))
    if made.published is not None:
        own = made.published
        other = TableNow(own.version + 2, {own.partition: own.version + 2}, {own.partition: "somebody"})
        changes.append(
            (f"publication {own.table}", replaced(present, tables={**present.tables, own.table: other}))
        )
    for part, changed in changes:
        found = judge(made, changed)
        assert found.state == "stale", part
        assert [each.part for each in found.differences] == [part]
        assert found.why
        assert judge(made, changed, ignore={part}) == Judgement("fine")


@given(MADE, st.data())
def test_a_partition_that_nothing_shows_was_made_is_missing(made: Made, data: st.DataObject) -> None:
    present = data.draw(unchanged_since(made))
    assert judge(None, present) == Judgement("missing")
    assert worst([judge(made, present), judge(None, present)]).state == "missing"


def replaced(present: Present, **fields: Any) -> Present:
    return msgspec.structs.replace(present, **fields)


def read_of(day: str, clock: Any, changes: dict[str, int], **options: Any) -> Judgement:
    made = Made({}, (Read("flights", 10, day, clock),))
    return judge(made, Present({}, {"flights": TableNow(20, changes)}), **options)


def test_a_feature_build_may_be_stale_when_an_earlier_partition_changed_and_never_by_a_later_one() -> None:
    found = read_of("2013-06-03", "until", {"2013-06-02": 15, "2013-06-01": 12, "2013-06-03": 9})
    assert found.state == "fine"
    assert found.differences == (
        Difference(
            "data flights",
            "table flights, partition 2013-06-02 and 1 more: changed since version 10 (now 15), which may matter",
            certain=False,
        ),
    )
    assert read_of("2013-06-03", "until", {"2013-06-02": 15}, strict=True).state == "stale"
    assert read_of("2013-06-03", "until", {"2013-06-04": 15}, strict=True) == Judgement("fine")


def test_labels_that_come_later_may_matter_and_earlier_ones_do_not() -> None:
    assert read_of("2013-06-03", "from", {"2013-06-04": 15}, strict=True).state == "stale"
    assert read_of("2013-06-03", "from", {"2013-06-02": 15}, strict=True) == Judgement("fine")


def test_a_change_that_the_log_no_longer_tells_is_taken_for_one() -> None:
    made = Made({}, (Read("flights", 10, "2013-06-03"),))
    cleaned = Present({}, {"flights": TableNow(40, {"2013-06-09": 40}, known_since=30)})
    found = judge(made, cleaned)
    assert found.state == "stale"
    assert "older commits are gone" in found.why
    used_after = Made({}, (Read("flights", 35, "2013-06-03"),))
    assert judge(used_after, cleaned) == Judgement("fine")


def test_a_table_that_was_made_anew_is_not_taken_for_the_old_one() -> None:
    made = Made({}, (Read("flights", 10, "2013-06-03"),))
    found = judge(made, Present({}, {"flights": TableNow(2, {"2013-06-03": 2})}))
    assert found.why == "table flights: version 10 -> made anew, now 2"
