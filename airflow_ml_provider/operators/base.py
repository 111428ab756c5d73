"""What all step operators do; a verb's own module says only what its step is given."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from airflow.sdk import BaseOperator

from airflow_ml_provider import __version__, config
from airflow_ml_provider.compute.base import Launch
from airflow_ml_provider.contract.documents import PROTOCOL, StepResult, StepSpec, Tracking, read_spec
from airflow_ml_provider.contract.errors import ConfigError, InfrastructureError, PreemptedError
from airflow_ml_provider.contract.identity import explain_difference, fingerprint
from airflow_ml_provider.links.step import DataDocsLink, MlflowRunLink, ModelLink, ReportLink
from airflow_ml_provider.operators import events, results, resumptions, runs
from airflow_ml_provider.operators.connections import credentials_of
from airflow_ml_provider.operators.pins import Pins, code_of, code_roots, commit_of
from airflow_ml_provider.operators.retries import StepRetryPolicy
from airflow_ml_provider.operators.shipping import shipped

if TYPE_CHECKING:
    from airflow.sdk import Asset, BaseOperatorLink, Context, RetryPolicy

    from airflow_ml_provider.compute.base import Compute, Exit
    from airflow_ml_provider.contract.arguments import Arguments
    from airflow_ml_provider.contract.store import Store


class StepOperator(BaseOperator):
    """Runs one step: pins what it reads, writes its spec, has a compute run it, and believes its result.

    A retry finds the result of an earlier try and reuses it when nothing that it depends on has changed; so
    does a cleared task. Killing the task ends the step. XCom gets a small manifest of references and numbers.

    :param compute: where the step runs; the deployment's default when left out. A mapping changes fields of
        the default for this step: ``{"resources": {"memory": "16Gi"}}``.
    :param code: folder or folders of the user's code, relative to the DAG file's; its own folder and its
        bundle's when left out.
    :param connections: ids of Airflow connections that the user's functions need; each reaches the step as
        the environment variable ``AIRFLOW_ML_CONN_{ID}``, a JSON document, and is seen nowhere else.
    :param seed: seeds everything the step draws from.
    :param retry_policy: replaces the default, which retries only failures that a retry can help.
    """

    verb: ClassVar[str] = ""
    # False for a step that reads what no fingerprint covers: it looks for itself whether there is work.
    reusable: bool = True
    # True for a step that finds code by what it reads: a model's types, the features that made its rows.
    looks_for_code: ClassVar[bool] = False
    operator_extra_links: Sequence[BaseOperatorLink] = (
        MlflowRunLink(), ReportLink(), DataDocsLink(), ModelLink(),
    )  # fmt: skip
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        compute: Compute | Mapping[str, Any] | None = None,
        connections: Sequence[str] = (),
        code: str | PathLike[str] | Iterable[str | PathLike[str]] | None = None,
        seed: int = 0,
        retry_policy: RetryPolicy | None = StepRetryPolicy(),  # noqa: B008 - it has no state
        **kwargs: Any,
    ) -> None:
        super().__init__(retry_policy=retry_policy, **kwargs)
        self.compute = compute
        self.connections = (connections,) if isinstance(connections, str) else tuple(connections)
        self.code, self.seed = code, seed
        self.step_links: dict[str, str] = {}
        self.place: dict[str, str] = {}
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
        spec = self._spec(store, context)
        earlier = results.read(store, spec.step_key)
        if earlier is not None and self.reusable and results.stands(earlier, spec):
            self.log.info("hit: step %s has done exactly this already; its result stands", spec.step_key)
            return self._finish(earlier, context)
        if earlier is not None and earlier.parts:
            changed = explain_difference(earlier.parts, spec.parts) or "the earlier try did not succeed"
            self.log.info("miss: %s", changed if self.reusable else "looking for new input")
        if earlier is not None:
            results.forget(store, spec.step_key)
        spec_uri = store.write(f"runs/{spec.step_key}/spec.json", spec.encode())
        self._launch = launch = self._launch_of(spec, spec_uri)
        self.log.info("running the %s step %s: %s", self.verb, spec.step_key, spec_uri)
        begin = partial(self.run_on, self._compute(), launch, spec, store, context)
        return self._conclude(store, spec, begin, context)

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """Carry on after the compute deferred: the spec in the store says what was started."""
        store = config.store()
        key = runs.step_key_of(context)
        uri = store.run_uri(key, "spec.json")
        content = store.read(f"runs/{key}/spec.json")
        if content is None:
            raise InfrastructureError(f"the spec that was started is gone: {uri}")
        spec = read_spec(content, source=uri)
        self._launch = launch = self._launch_of(spec, uri)
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
                    return self._finish(result, context)
                raise results.error_of(result.failure)
            except PreemptedError as error:
                compute, launch = self._compute(), self._launch
                if launch is None or self._killed:
                    raise
                if not resumptions.claim(store, spec.step_key, context, compute.resumptions):
                    raise
                self.log.warning(
                    "%s; it is started again, which takes none of the task's retries", error.what
                )
            results.forget(store, spec.step_key)
            begin = partial(self.run_on, compute, launch, spec, store, context)

    def _finish(self, result: StepResult, context: Context) -> dict[str, Any]:
        self.step_links = dict(result.links)
        results.raise_unless_success(result)
        for warning in result.warnings:
            self.log.warning(warning)
        events.announce(self, result, context)
        return {**result.manifest(), **({"place": self.place} if self.place else {})}

    def _launch_of(self, spec: StepSpec, uri: str) -> Launch:
        return Launch(
            spec.step_key, self.verb, uri, spec.code.roots, credentials_of(self.connections), spec.fingerprint
        )

    def _compute(self) -> Compute:
        if self.compute is None or isinstance(self.compute, Mapping):
            return config.compute().but(self.compute or {})
        return self.compute

    def _spec(self, store: Store, context: Context) -> StepSpec:
        pins = Pins(store, wanted_by=f"task {self.task_id!r}")
        arguments = self.arguments(pins, context)
        roots = code_roots(self.code, self.dag.fileloc, runs.bundle_of(context))
        code = code_of(self.entry_points(), roots, commit_of(roots))
        compute = self._compute()
        if compute.ships_code:
            points, named = self.entry_points(), self.code is not None
            code = shipped(code, points, store, named=named, looks_for_code=self.looks_for_code)
        from airflow_ml_provider.hooks.mlflow import find_hook

        hook = find_hook()
        tracking = Tracking(
            hook.tracking_uri if hook else "", config.experiment(self.dag_id), config.mlflow_browse_url()
        )
        builtins: dict[str, Any] = msgspec.to_builtins(arguments)
        parts = {
            "verb": self.verb,
            "code": code.digest,
            "seed": self.seed,
            "protocol": PROTOCOL,
            "package": __version__,
            **compute.content(),
            **self.further_parts(pins, arguments),
            **builtins,
        }
        spec = StepSpec(
            verb=self.verb,
            store=store.uri,
            arguments=builtins,
            step_key=runs.step_key_of(context),
            seed=self.seed,
            code=code,
            tracking=tracking,
            run=runs.run_of(context),
            parts=parts,
            fingerprint=fingerprint(parts),
        )
        spec.typed_arguments()
        return spec
