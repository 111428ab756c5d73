"""``airflow-ml ledger``: the timeline of a model's alias, or which version it named at a moment."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_ml_provider.registry.ledger import Entry, Move

_COLUMNS = ("entry", "counts from", "alias to", "was", "kind", "by", "why")


def add(commands: Any) -> None:
    """The command's options."""
    parser = commands.add_parser(
        "ledger",
        help="who was champion, when and why",
        description="Prints the ledger of a model's alias, the oldest entry first: promotions, rollbacks, and "
        "changes by somebody's hand that were noticed. With --as-of, only the version that it named at that "
        "moment. Reads the store alone. The exit code is 0; 66 when there was no version at that moment; 64 "
        "when something was asked for that cannot be.",
    )
    parser.add_argument("model", metavar="MODEL", help="the registered model's name")
    add_place(parser)
    parser.add_argument("--as-of", metavar="MOMENT", help='a date or a time, in UTC: "2013-06-01T08:00:00Z"')
    parser.add_argument(
        "--known-at", metavar="MOMENT", help="with --as-of: believe only what was written down by then"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_place(parser: Any) -> None:
    """Which store and which alias."""
    parser.add_argument(
        "--store", metavar="URI", default=os.environ.get("AIRFLOW__ML__STORE", ""),
        help="the deployment's store; AIRFLOW__ML__STORE when left out",
    )  # fmt: skip
    parser.add_argument("--alias", default="champion", help="champion when left out")


def run(options: Namespace) -> int:
    """Print; gives the exit code."""
    from airflow_ml_provider.contract.errors import MLError
    from airflow_ml_provider.contract.models import Model

    try:
        Model(options.model)  # raises where it is no name
        return _as_of(options) if options.as_of is not None else _timeline(options)
    except MLError as error:
        print(f"{error.kind} error: {error}", file=sys.stderr)
        return error.exit_code


def _timeline(options: Namespace) -> int:
    from airflow_ml_provider.contract.store import Store
    from airflow_ml_provider.registry.history import history

    moves = history(Store(options.store), options.model, options.alias)
    if options.json:
        print(json.dumps([_document(move) for move in moves], indent=1))
    elif moves:
        print(_table([_COLUMNS, *(_row(move) for move in moves)]))
    else:
        print(f"the ledger has nothing of {options.model}@{options.alias}")
    return 0


def _as_of(options: Namespace) -> int:
    import msgspec

    from airflow_ml_provider.contract.errors import DataError
    from airflow_ml_provider.contract.store import Store
    from airflow_ml_provider.registry.history import as_of, given_moment

    moment = given_moment(options.as_of, name="--as-of")
    known_at = given_moment(options.known_at, name="--known-at") if options.known_at else None
    found = as_of(Store(options.store), options.model, moment, options.alias, known_at)
    if options.json:
        print(json.dumps(msgspec.to_builtins(found), indent=1))
        return 0 if found and found.version is not None else DataError.exit_code
    if found is None:
        print(
            f"{options.model} had no {options.alias} at {options.as_of}: the ledger begins later, or is empty"
        )
        return DataError.exit_code
    if found.version is None:
        print(f"{options.model} had no {options.alias} at {options.as_of}: it was deleted ({_told(found)})")
        return DataError.exit_code
    print(
        f"{options.model} version {found.version}, {options.alias} from {found.effective} on ({_told(found)})"
    )
    return 0


def _told(entry: Entry) -> str:
    return f"entry {entry.sequence}, {entry.kind} by {entry.by}: {entry.reason}"


def _row(move: Move) -> tuple[str, ...]:
    entry = move.entry
    came = "under way" if move.outcome is None else move.effective if move.moved else "abandoned"
    why = entry.reason
    if entry.approval:
        why += f" ({entry.approval.get('said', 'approved')})"
    return (
        str(entry.sequence), came, _named(entry.version), _named(entry.previous), entry.kind, entry.by, why,
    )  # fmt: skip


def _named(version: int | None) -> str:
    return "none" if version is None else str(version)


def _document(move: Move) -> dict[str, Any]:
    import msgspec

    outcome = msgspec.to_builtins(move.outcome) if move.outcome else None
    return {**msgspec.to_builtins(move.entry), "effective": move.effective, "outcome": outcome}


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    )
