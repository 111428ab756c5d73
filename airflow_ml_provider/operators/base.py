"""What all step operators do; a verb's own module says only what its step is given."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from airflow.sdk import BaseOperator

from airflow_ml_provider import config
from airflow_ml_provider.compute.base import Launch
from airflow_ml_provider.contract.errors import ConfigError, MLError, PreemptedError
from airflow_ml_provider.links.step import DataDocsLink, MadeByLink, MlflowRunLink, ModelLink, ReportLink
from airflow_ml_provider.operators import events, memo, results, resumptions
from airflow_ml_provider.operators.connections import credentials_of
from airflow_ml_provider.operators.retries import StepRetryPolicy
from airflow_ml_provider.operators.reuse import Reusable
from airflow_ml_provider.operators.specs import kept_spec, spec_of
from airflow_ml_provider.operators.verification import Verification

if TYPE_CHECKING:
    from airflow.sdk import Asset, BaseOperatorLink, Context, RetryPolicy

    from airflow_ml_provider.compute.base import Compute, Exit
    from airflow_ml_provider.contract.arguments import Arguments
    from airflow_ml_provider.contract.documents import StepResult, StepSpec
    from airflow_ml_provider.contract.store import Store
    from airflow_ml_provider.operators.pins import Pins


class StepOperator(Reusable, BaseOperator):
    """Runs one step: pins what it reads, writes its spec, has a compute run it, and believes its result.

    What has been computed before, by this task or another one, is reused when nothing that it depends on has
    changed. Killing the task ends the step. XCom gets a small manifest of references and numbers.

    :param compute: where the step runs; the deployment's default when left out. A mapping changes fields of
        the default for this step: ``{"resources": {"memory": "16Gi"}}``.
    :param code: folder or folders of the user's code, relative to the DAG file's; its own folder and its
        bundle's when left out.
    :param connections: ids of Airflow connections that the user's functions need; each reaches the step as
        the environment variable ``AIRFLOW_ML_CONN_{ID}``, a JSON document, and is seen nowhere else.
    :param seed: seeds everything the step draws from.
    :param cache: "reuse", "rerun" (compute it although it is known) or "verify" (compute a part of it again
        and compare); as the deployment says, ``[ml] cache``, when left out. (templated)
    :param retry_policy: replaces the default, which retries only failures that a retry can help.
    """

    verb: ClassVar[str] = ""
    # True for a step that finds code by what it reads: a model's types, the features that made its rows.
    looks_for_code: ClassVar[bool] = False
    operator_extra_links: Sequence[BaseOperatorLink] = (
        MlflowRunLink(), ReportLink(), DataDocsLink(), ModelLink(), MadeByLink(),
    )  # fmt: skip
    ui_color = "#e8f0fe"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.template_fields = tuple(dict.fromkeys((*cls.template_fields, "cache")))

    def __init__(
        self,
        *,
        compute: Compute | Mapping[str, Any] | None = None,
        connections: Sequence[str] = (),
        code: str | PathLike[str] | Iterable[str | PathLike[str]] | None = None,
        seed: int = 0,
        cache: str = "",
        retry_policy: RetryPolicy | None = StepRetryPolicy(),  # noqa: B008 - it has no state
        **kwargs: Any,
    ) -> None:
        super().__init__(retry_policy=retry_policy, **kwargs)
        self.compute = compute
        self.connections = (connections,) if isinstance(connections, str) else tuple(connections)
        self.code, self.seed, self.cache = code, seed, cache
        self.step_links: dict[str, str] = {}
        self.place: dict[str, str] = {}
        self.reused_from = ""
        self._launch: Launch | None = None
        self._killed = False

    @abstractmethod
    def arguments(self, pins: Pins, context: Context) -> Arguments:
        """The step's arguments, pinned."""

    def entry_points(self) -> Iterable[str | None]:
        """The user's functions that the step calls, as ``package.module:name``."""
        return ()

    def further_parts(self, pins: Pins, arguments: Any) -> Mapping[str, Any]:
        """What else the result depends on, beside arguments and code."""
        return {}

    def announce(self, result: StepResult, context: Context) -> None:
        """Put what the step did on the events of its assets, and withhold those that nothing calls for."""
        events.announce_table(self, result, context)

    def render_template_fields(self, context: Context, jinja_env: Any = None) -> None:
        """Fill in the templates; partitions that come out empty would mean the whole table, unasked for.

        :raises ConfigError: partitions were asked for by a template, and it came out empty.
        """
        asked = getattr(self, "partitions", "")
        super().render_template_fields(context, jinja_env)
        if asked and str(getattr(self, "partitions", "")).strip() in ("", "None"):
            raise ConfigError(
                f"task {self.task_id!r} works on partitions={asked!r}, and that came out empty in this run",
                kept="nothing was read or written",
                todo="trigger the DAG with a partition key, or fill in its parameter for the days",
            )

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the step, or reuse its result."""
        return self.run_step(context)

    def run_step(self, context: Context) -> dict[str, Any]:
        """What :meth:`execute` does, for an operator that comes to it by another way."""
        store = config.store()
        return self._carry_out(store, spec_of(self, store, context), context)

    def claimed(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """Carry on after somebody else was waited for, who had claimed the same work."""
        store = config.store()
        return self._carry_out(store, kept_spec(store, context), context, event)

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """Carry on after the compute deferred: the spec in the store says what was started."""
        store = config.store()
        spec = kept_spec(store, context)
        if verification := Verification.under_way(self, store, spec):
            return self._reuse(store, spec, verification.resume(context, event), context, verified=True)
        self._launch = launch = self._launch_of(spec, store.run_uri(spec.step_key, "spec.json"))
        begin = partial(self.resume_on, self._compute(), launch, spec, store, context, event)
        return self._conclude(store, spec, begin, context)

    def run_on(
        self, compute: Compute, launch: Launch, spec: StepSpec, store: Store, context: Context
    ) -> Exit:
        """Have a compute run the step; a verb that takes several runs says so here."""
        return compute.run(launch, context)

    def resume_on(
        self, compute: Compute, launch: Launch, spec: StepSpec, store: Store, context: Context,
        event: Mapping[str, Any],
    ) -> Exit:  # fmt: skip
        """Carry on after :meth:`run_on` deferred."""
        return compute.resume(launch, context, event)

    def on_kill(self) -> None:
        """End the step when the task is ended."""
        self._killed = True
        if self._launch is not None:
            self._compute().cancel(self._launch)

    def add_outlet(self, asset: Asset) -> None:
        """Declare an asset that the step publishes, beside those the DAG author declared."""
        if asset not in self.outlets:
            self.outlets = [*self.outlets, asset]

    def _compute(self) -> Compute:
        if self.compute is None or isinstance(self.compute, Mapping):
            return config.compute().but(self.compute or {})
        return self.compute

    def _launch_of(self, spec: StepSpec, uri: str) -> Launch:
        secrets = credentials_of(self.connections)
        return Launch(spec.step_key, self.verb, uri, spec.code.roots, secrets, spec.fingerprint)

    def _carry_out(
        self, store: Store, spec: StepSpec, context: Context, event: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        decision = memo.decide(self, store, spec, context, event)
        self.log.info("%s: %s", decision.kind, decision.why)
        if decision.kind == "hit":
            if self.cache_mode == "verify":
                Verification(self, store, spec, decision).run(context)
            return self._reuse(store, spec, decision, context, verified=self.cache_mode == "verify")
        if decision.kind != "wait" and (told := self.without_running(store, spec)) is not None:
            return self._finish(
                store, spec, told, context, {"decision": "hit", "why": str(told.summary["why"])}
            )
        run = msgspec.structs.replace(spec.run, cache=f"{decision.kind}: {decision.why}")
        spec = msgspec.structs.replace(spec, run=run)
        store.write(f"runs/{spec.step_key}/spec.json", spec.encode())
        if decision.kind == "wait":
            self.defer(trigger=memo.trigger_of(decision, spec.fingerprint), method_name="claimed")
        results.forget(store, spec.step_key)
        self._launch = launch = self._launch_of(spec, store.run_uri(spec.step_key, "spec.json"))
        self.log.info("running the %s step %s: %s", self.verb, spec.step_key, launch.spec_uri)
        begin = partial(self.run_on, self._compute(), launch, spec, store, context)
        return self._conclude(store, spec, begin, context)

    def _conclude(
        self, store: Store, spec: StepSpec, begin: Callable[[], Exit], context: Context
    ) -> dict[str, Any]:
        """Believe what came of the step; start it again if only its place was taken away."""
        while True:
            try:
                ended = begin()
                result = results.believe(store, spec, ended)
                if result.failure is None or result.failure.kind != PreemptedError.kind:
                    self.place = dict(ended.place)
                    return self._finish(store, spec, result, context, memo.document_of(spec))
                raise results.error_of(result.failure)
            except PreemptedError as error:
                compute, launch = self._compute(), self._launch
                if (
                    launch is None
                    or self._killed
                    or not resumptions.claim(store, spec.step_key, context, compute.resumptions)
                ):
                    memo.release(self, store, spec, error.what)
                    raise
                self.log.warning(
                    "%s; it is started again, which takes none of the task's retries", error.what
                )
            except MLError as error:
                memo.release(self, store, spec, error.what)
                raise
            results.forget(store, spec.step_key)
            begin = partial(self.run_on, compute, launch, spec, store, context)

    def _reuse(
        self, store: Store, spec: StepSpec, decision: memo.Decision, context: Context, *, verified: bool
    ) -> dict[str, Any]:
        assert decision.result is not None
        result = decision.result
        if decision.made_by is not None:
            result = memo.adopted(self, spec, decision)
            self.reused_from = decision.why
            store.write(f"runs/{spec.step_key}/spec.json", spec.encode())
            store.write(f"runs/{spec.step_key}/result.json", result.encode())
        return self._finish(store, spec, result, context, decision.document("verified" if verified else ""))

    def _finish(
        self, store: Store, spec: StepSpec, result: StepResult, context: Context, cache: Mapping[str, Any]
    ) -> dict[str, Any]:
        self.step_links = dict(result.links)
        memo.settle(self, store, spec, result)
        results.raise_unless_success(result)
        for warning in result.warnings:
            self.log.warning(warning)
        events.announce(self, result, context)
        return {**result.manifest(), "cache": dict(cache), **({"place": self.place} if self.place else {})}
