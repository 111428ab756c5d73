"""Has a step computed once more, in part, to see whether it gives the same: ``cache="verify"``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_ml_provider.compute.base import Launch
from airflow_ml_provider.contract.documents import RunOf, read_result
from airflow_ml_provider.contract.errors import InfrastructureError
from airflow_ml_provider.operators import results

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_ml_provider.compute.base import Exit
    from airflow_ml_provider.contract.documents import StepSpec
    from airflow_ml_provider.contract.store import Store
    from airflow_ml_provider.operators.base import StepOperator
    from airflow_ml_provider.operators.memo import Decision

# What is found of a step that is given the same once more.
VERIFIABLE = ("ingest", "validate", "features", "train", "evaluate", "predict", "fleet", "search")
_MARK = "verify"


@dataclass(frozen=True)
class VerifyLaunch(Launch):
    """Has the step compute a part of what it is given, and compare; a step key of its own."""

    @property
    def arguments(self) -> list[str]:
        """What to give to Python to run the step."""
        return [*super().arguments, "--verify"]


class Verification:
    """One verification of a result that was found.

    The step that is to be compared with lies beside the spec of the verification, in a folder of its own. Nothing
    that is published changes, whatever comes of it.
    """

    def __init__(self, operator: StepOperator, store: Store, spec: StepSpec, found: Decision) -> None:
        self.operator, self.store, self.spec, self.found = operator, store, spec, found
        head, tail = spec.step_key[:-17], spec.step_key[-16:]
        self.key = f"{head[:38]}-verify-{tail}"

    @classmethod
    def under_way(cls, operator: StepOperator, store: Store, spec: StepSpec) -> Verification | None:
        """The verification that a task had begun when it deferred."""
        if spec.run.cache != _MARK:
            return None
        from airflow_ml_provider.operators.memo import Decision

        found = cls(operator, store, spec, Decision("hit", ""))
        earlier, said = (store.read(f"runs/{found.key}/{name}.json") for name in ("earlier", "decision"))
        if earlier is None or said is None:
            raise InfrastructureError(f"the verification that was begun is gone: {store.run_uri(found.key)}")
        told = msgspec.json.decode(said)
        made_by = msgspec.convert(told["made_by"], RunOf) if told["made_by"] else None
        result = read_result(earlier, source=found.key)
        found.found = Decision("hit", told["why"], result, made_by)
        return found

    def run(self, context: Context) -> None:
        """Verify.

        :raises DataError: it gave something else; named by column, partition or metric.
        """
        found = self.found
        assert found.result is not None
        if self.spec.verb not in VERIFIABLE:
            self.operator.log.warning("a %s step is not verified; its result is reused", self.spec.verb)
            return
        told = {"why": found.why, "made_by": msgspec.to_builtins(found.made_by)}
        self.store.write_json(f"runs/{self.key}/decision.json", told)
        self.store.write(f"runs/{self.key}/earlier.json", found.result.encode())
        results.forget(self.store, self.key)
        self.store.write(f"runs/{self.key}/spec.json", self._own_spec().encode())
        marked = msgspec.structs.replace(self.spec.run, cache=_MARK)
        own = msgspec.structs.replace(self.spec, run=marked)
        self.store.write(f"runs/{self.spec.step_key}/spec.json", own.encode())
        self.operator.log.info("computing a part of it again, to compare: %s", self.store.run_uri(self.key))
        self._conclude(self.operator._compute().run(self._launch(), context))

    def resume(self, context: Context, event: Mapping[str, Any]) -> Decision:
        """Carry on after the compute deferred."""
        self._conclude(self.operator._compute().resume(self._launch(), context, event))
        return self.found

    def _conclude(self, ended: Exit) -> None:
        result = results.believe(self.store, self._own_spec(), ended)
        results.raise_unless_success(result)
        self.operator.log.info("verified: %s", result.summary.get("verified", ""))

    def _own_spec(self) -> StepSpec:
        return msgspec.structs.replace(self.spec, step_key=self.key)

    def _launch(self) -> VerifyLaunch:
        launch = self.operator._launch_of(self.spec, self.store.run_uri(self.key, "spec.json"))
        self.operator._launch = made = VerifyLaunch(
            **{one.name: getattr(launch, one.name) for one in fields(Launch)} | {"step_key": self.key}
        )
        return made
