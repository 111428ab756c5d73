"""The work on one item: the user's function is called with what it asks for, and what it gives is kept."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_ml_provider.contract.arguments import FleetArguments
from airflow_ml_provider.contract.errors import UserCodeError
from airflow_ml_provider.contract.fleet_ledger import Ledger
from airflow_ml_provider.contract.fleets import Item, item_digest, item_seed
from airflow_ml_provider.steps import functions, runner

# A pod starts for each index: what only some fleets need is imported by those.
if TYPE_CHECKING:
    import polars as pl

    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.fleet_rows import ItemRows

# A result is numbers and words about an item; every one is held by the ledger and read at the end.
_MOST_RESULT = 100_000


class Work:
    """Does one item after the other, in one process.

    :param step: the fleet's step.
    """

    def __init__(self, step: StepContext, arguments: FleetArguments) -> None:
        self.step = step
        self.arguments = arguments
        self.ledger = Ledger.of(step.store, step.spec)
        self.function = functions.user_code(step, arguments.function)
        # Where the rows of many items lie next to each other, once there is such a folder.
        self.laid_down: Path | None = None
        self._modules = 0

    @cached_property
    def rows(self) -> ItemRows | None:
        """The table that items select rows of."""
        arguments = self.arguments
        if arguments.table is None:
            return None
        from airflow_ml_provider.steps.fleet_rows import ItemRows

        table, parts = self.step.read(arguments.table), arguments.partitions
        layout = None
        if self.laid_down is not None and self.laid_down.exists():
            from airflow_ml_provider.steps.fleet_layout import open_layout

            layout = open_layout(self.step, table, parts, self.laid_down, trains=arguments.trains)
        return ItemRows(self.step, table, parts, self.step.scratch, layout)

    def read_together(self, items: Sequence[Item], folder: Path) -> None:
        """Read the rows of some items once, before the first of them is run.

        :param folder: a new folder for them.
        """
        if self.arguments.table is not None and len(items) > 1:
            from airflow_ml_provider.steps.fleet_layout import read_together

            self.laid_down = read_together(self.step, self.arguments, items, folder)

    def do(self, item: Item) -> dict[str, Any]:
        """Run one item; gives its result.

        :raises MLError: it failed.
        """
        scratch = self.step.scratch / "item"
        seed = item_seed(self.step.spec.seed, item_digest(item))
        runner.set_seeds(seed)
        self._limit_threads()
        try:
            work = self._train if self.arguments.trains else self._call
            given = work(item, seed, scratch)
            return as_result(given, self.arguments.function)
        except SystemExit as error:
            raise UserCodeError(
                f"{self.arguments.function} ended the process: sys.exit({error.code!r})"
            ) from error
        finally:
            if scratch.exists():
                shutil.rmtree(scratch, ignore_errors=True)

    def _limit_threads(self) -> None:
        """One thread for linear algebra, whose sums depend on how many there are, to this process's end.

        Looking for its libraries takes longer than a small model: only after something was imported.
        """
        if len(sys.modules) != self._modules:
            from threadpoolctl import threadpool_limits

            threadpool_limits(limits=1, user_api="blas")
            self._modules = len(sys.modules)

    def _call(self, item: Item, seed: int, scratch: Path) -> Any:
        frames: dict[str, pl.LazyFrame | pl.DataFrame] = {}
        own = item
        if self.rows is not None:
            where, own = self.rows.split(item)
            frames["rows"] = self.rows.frame(where)
        values = {"item": dict(item), "params": {**self.arguments.params, **own}, "seed": seed}
        return functions.call(self.function, frames=frames, values=values, scratch=scratch)

    def _train(self, item: Item, seed: int, scratch: Path) -> dict[str, Any]:
        from airflow_ml_provider.steps import fleet_models

        assert self.rows is not None
        where, own = self.rows.split(item)
        if self.arguments.groups:
            # It says which rows, not how to train.
            own = {}
        rows = self.rows.labelled(where)
        scratch.mkdir()
        values = {
            "item": dict(item), "params": {**self.arguments.params, **own}, "seed": seed,
            "features": list(rows.rows.features), "label": rows.label,
        }  # fmt: skip
        given_rows = rows.frame if rows.held is None else rows.held
        given = functions.call(self.function, frames={"rows": given_rows}, values=values, scratch=scratch)
        place = f"{self.ledger.folder}/models/{item_digest(item)}"
        return fleet_models.keep(self.step.store, place, given, rows, self.arguments, scratch)


def as_result(given: Any, function: str) -> dict[str, Any]:
    """What a function gave, as JSON values; numbers that JSON does not have become null.

    :raises UserCodeError: it is no mapping, holds something else, or is no small document.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise UserCodeError(
            f"{function} gave {type(given).__name__}, not a mapping of results",
            todo='return one such as {"roc_auc": 0.71, "rows": 1200}, or None',
        )
    try:
        # A round trip, so that a result is the same now and after a restart.
        content = msgspec.json.encode(
            {str(name): value for name, value in given.items()}, enc_hook=_as_plain, order="deterministic"
        )
        found: dict[str, Any] = msgspec.json.decode(content)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserCodeError(
            f"{function} gave a result that is no JSON: {error}",
            todo="return numbers, texts, booleans, and lists and mappings of them",
        ) from error
    if len(content) > _MOST_RESULT:
        raise UserCodeError(
            f"{function} gave a result of {len(content):,} bytes; {_MOST_RESULT:,} are possible",
            todo="return what is said about the item, and write data to a table or a file",
        )
    return found


def _as_plain(value: Any) -> Any:
    # NumPy's numbers and arrays.
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"it holds a {type(value).__module__}.{type(value).__qualname__}")
