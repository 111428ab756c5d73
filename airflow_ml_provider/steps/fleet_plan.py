"""What a fleet is to do: its items, checked, and which of their indexes are still to be run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.fleet_ledger import Ledger, kept_items
from airflow_ml_provider.contract.fleets import Item, check_items, check_publication
from airflow_ml_provider.steps.context import Skipped

if TYPE_CHECKING:
    import polars as pl

    from airflow_ml_provider.contract.arguments import FleetArguments
    from airflow_ml_provider.contract.fleets import PlanDocument
    from airflow_ml_provider.steps.context import StepContext


def items_of(step: StepContext, arguments: FleetArguments) -> list[Item]:
    """The items of a fleet.

    :raises Skipped: there are none.
    """
    if arguments.groups:
        from airflow_ml_provider.steps import groups

        items = groups.of_rows(step, arguments).items
    elif arguments.over is not None:
        table = step.read(arguments.over)
        name = f"table {table.name!r}, version {table.version}"
        items = check_items(_rows(table.lazy()), wanted_by=name)
        if not items:
            raise Skipped(f"there is nothing to do: {name} has no rows")
    elif arguments.items_digest:
        items = kept_items(step.store, f"runs/{step.key}/fleet", arguments.items_digest)
    else:
        items = check_items(arguments.items)
    if not items:
        raise Skipped("there is nothing to do: the fleet has no items")
    check_publication(arguments, items)
    return items


def make(step: StepContext, arguments: FleetArguments) -> PlanDocument:
    """Plan what is missing, and keep the plan."""
    ledger = Ledger.of(step.store, step.spec)
    return ledger.make_plan(items_of(step, arguments), arguments, step.spec.fingerprint)


def _rows(frame: pl.LazyFrame) -> list[Item]:
    """The rows of a table as items: times as ISO 8601, and in an order that is always the same."""
    import polars as pl

    schema = frame.collect_schema()
    odd = [
        f"{name} ({kind})"
        for name, kind in schema.items()
        if kind.is_nested() or kind in (pl.Binary, pl.Object)
    ]
    if odd:
        raise ConfigError(
            f"the columns {', '.join(odd)} cannot be part of an item", todo="publish the items without them"
        )
    texts = [
        pl.col(name).cast(pl.String) for name, kind in schema.items() if kind in (pl.Categorical, pl.Enum)
    ]
    rows: list[Item] = [
        {name: _as_json(value) for name, value in row.items()}
        for row in frame.with_columns(texts).collect().iter_rows(named=True)
    ]
    # By the first column first: items that select the same rows by it follow each other, and read them once.
    return sorted(rows, key=json.dumps)


def _as_json(value: Any) -> Any:
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value if isinstance(value, (str, int, float)) or value is None else str(value)
