"""One function over many items, in one task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from airflow.sdk.exceptions import AirflowSkipException

from airflow_ml_provider.assets import table_asset
from airflow_ml_provider.contract import fleet_ledger
from airflow_ml_provider.contract.arguments import FleetArguments
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.fleets import check_items, check_publication, item_digest
from airflow_ml_provider.contract.identity import digest
from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.operators import fleet_stages, runs
from airflow_ml_provider.operators.base import StepOperator
from airflow_ml_provider.operators.references import publishable

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_ml_provider.compute.base import Compute, Exit, Launch
    from airflow_ml_provider.contract.documents import StepSpec
    from airflow_ml_provider.contract.store import Store
    from airflow_ml_provider.operators.pins import Pins


class FleetStep(StepOperator):
    """What a step over many items does around it: its items go to the store, its indexes to a Job.

    :param over: the items: a list of flat mappings, a Table of one item a row, or an upstream step's or
        task's ``.output`` that is one of these. (templated)
    :param items_per_index: how many items a pod or worker takes at a time: more for short items.
    :param parallelism: how many indexes run at once; on one machine at most one a processor.
    :param tries: how often an item is tried whose code fails, and an index whose process dies.
    :param max_failed: how many items may fail without failing the task: a number, or a share such as 0.05.
    :param publish: the table that gets the results, one row an item.
    """

    def __init__(
        self,
        *,
        over: Any = None,
        items_per_index: int = 1,
        parallelism: int = 10,
        tries: int = 2,
        max_failed: float = 0,
        publish: Table | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value in (
            ("items_per_index", items_per_index),
            ("parallelism", parallelism),
            ("tries", tries),
        ):
            if isinstance(value, int) and value < 1:
                raise ConfigError(f"task {self.task_id!r} has {name}={value}; at least 1 is needed")
        if max_failed < 0 or (isinstance(max_failed, float) and max_failed > 1):
            raise ConfigError(
                f"task {self.task_id!r} has max_failed={max_failed}",
                todo="give a number of items, or a share of them between 0.0 and 1.0",
            )
        self.over = over
        self.items_per_index = items_per_index
        self.parallelism = parallelism
        self.tries = tries
        self.max_failed = max_failed
        self.publish = publishable(publish, wanted_by=f"task {self.task_id!r}") if publish else None
        if self.publish is not None:
            self.add_outlet(table_asset(self.publish))

    def render_template(
        self, content: Any, context: Context, jinja_env: Any = None, seen_oids: set[int] | None = None
    ) -> Any:
        """Fill in templates; a list of items that has none is left as it is, since 20,000 take ten seconds."""
        if isinstance(content, list) and content and all(map(_is_final, content)):
            return content
        return super().render_template(content, context, jinja_env, seen_oids)

    def fleet_arguments(self, pins: Pins, context: Context, **own: Any) -> FleetArguments:
        """The step's arguments; a list of items goes to the store, under its digest.

        :raises AirflowSkipException: there are no items.
        """
        common = FleetArguments(
            items_per_index=self.items_per_index,
            parallelism=self.parallelism,
            tries=self.tries,
            max_failed=self.max_failed,
            publish=self.publish,
            **own,
        )
        if common.groups:
            # Their values are found where the rows are read.
            return common
        over = self.over
        if isinstance(over, str) and over.lstrip().startswith("["):
            # A template that gives a list as text: {{ params.items | tojson }}
            over = msgspec.json.decode(over)
        if isinstance(over, (str, Table, Mapping)):
            return msgspec.structs.replace(common, over=pins.table(over))
        items = check_items(over, wanted_by=pins.wanted_by)
        if not items:
            raise AirflowSkipException(f"there is nothing to do: {pins.wanted_by} was given no items")
        check_publication(common, items)
        found = digest(*(item_digest(item) for item in items))
        fleet_ledger.keep_items(pins.store, f"runs/{runs.step_key_of(context)}/fleet", items, found)
        return msgspec.structs.replace(common, items_digest=found, count=len(items))

    def run_on(
        self, compute: Compute, launch: Launch, spec: StepSpec, store: Store, context: Context
    ) -> Exit:
        """Plan, have the compute run the indexes if it does such, and run the step, which sums up."""
        if self.verb == "fleet" and fleet_stages.has_jobs(compute):
            return fleet_stages.run(compute, launch, spec, store, context)
        # The step itself plans, and runs the indexes in processes beside it.
        return compute.run(launch, context)

    def on_kill(self) -> None:
        """End the step, and the pod that plans for it, whichever runs."""
        super().on_kill()
        compute = self._compute()
        if self._launch is not None and self.verb == "fleet" and fleet_stages.has_jobs(compute):
            compute.cancel(fleet_stages.PlanLaunch.of(self._launch))

    def resume_on(
        self, compute: Compute, launch: Launch, spec: StepSpec, store: Store, context: Context,
        event: Mapping[str, Any],
    ) -> Exit:  # fmt: skip
        """Carry on with what was intended when the compute deferred."""
        if self.verb == "fleet" and fleet_stages.has_jobs(compute):
            return fleet_stages.resume(compute, launch, spec, store, context, event)
        return compute.resume(launch, context, event)


class FleetOperator(FleetStep):
    """Runs a function over many items, in one task, and keeps a ledger of what came of each.

    A retry and a clear run only the items that are missing or failed; so does a run with more items. A killed
    task ends its workers; what they finished stands. Changed code, settings or table versions begin anew.

    :param function: ``"package.module:function"``; gets by name what it asks for: ``item``, ``params``,
        ``seed``, and the rows of the table by annotation. It gives a mapping of JSON values. (templated)
    :param table: rows for the function; an item's keys that are columns select those that are equal.
        (templated)
    :param partitions: of the table; all of them when empty. (templated)
    :param hyperparameters: common to all items; ``params`` are these and the item's own. (templated)

    The others are those of :class:`FleetStep`: ``over``, ``items_per_index``, ``parallelism``, ``tries``,
    ``max_failed`` and ``publish``.
    """

    verb = "fleet"
    template_fields: Sequence[str] = ("function", "over", "table", "partitions", "hyperparameters")
    template_fields_renderers = {"hyperparameters": "json", "over": "json"}
    ui_color = "#e0f2f1"

    def __init__(
        self,
        *,
        function: str,
        over: Any,
        table: Table | str | Any = None,
        partitions: str = "",
        hyperparameters: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(over=over, **kwargs)
        self.function = function
        self.table = table
        self.partitions = partitions
        self.hyperparameters = hyperparameters

    def arguments(self, pins: Pins, context: Context) -> FleetArguments:
        """The step's arguments, with its tables pinned."""
        return self.fleet_arguments(
            pins,
            context,
            function=self.function,
            table=pins.table(self.table) if self.table else None,
            partitions=str(self.partitions),
            params=dict(self.hyperparameters or {}),
        )

    def entry_points(self) -> Iterable[str | None]:
        """The function."""
        return (self.function,)


def _is_final(item: Any) -> bool:
    """Whether an item is a flat mapping without templates."""
    return isinstance(item, dict) and not any(
        "{" in value if isinstance(value, str) else not isinstance(value, (int, float, type(None)))
        for value in item.values()
    )
