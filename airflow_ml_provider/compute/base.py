"""What every compute does: run a step by its spec, resume waiting for it, cancel it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self

from airflow_ml_provider.contract.errors import (
    ERRORS_BY_KIND,
    ConfigError,
    InfrastructureError,
    MLError,
    did_you_mean,
)

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_ml_provider.contract.fleets import FleetPlan


@dataclass(frozen=True)
class Launch:
    """All that a compute may know of a step.

    :param step_key: the step's identity, the same over all tries; names whatever the compute starts.
    :param verb: which step.
    :param spec_uri: where its spec is.
    :param code_roots: folders that the user's code is imported from.
    :param credentials: environment variables that the step needs and nobody may see: not in a spec, a log,
        a rendered field or a command line.
    :param fingerprint: what the step computes; tells a running step apart from one of an older spec.
    :param indexed: the step may have parts that run as the indexes of a Job.
    """

    step_key: str
    verb: str
    spec_uri: str
    code_roots: tuple[str, ...] = ()
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    fingerprint: str = ""
    indexed: bool = False

    @property
    def arguments(self) -> list[str]:
        """What to give to Python to run the step."""
        return ["-m", "airflow_ml_provider.steps", self.verb, "--spec", self.spec_uri]


@dataclass(frozen=True)
class Exit:
    """How a step's process ended; only looked at when the step left no result.

    :param code: its exit code, those of the error kinds if the step itself chose it.
    :param error: what the place knows better: killed, evicted, preempted.
    :param last_lines: the end of its output, where the compute has it.
    :param place: facts about where it ran, for people: pod, node, image.
    """

    code: int
    error: MLError | None = None
    last_lines: str = ""
    place: Mapping[str, str] = field(default_factory=dict)

    def failure(self, what: str, *, kept: str) -> MLError:
        """The error of an end without a result: what the place knows, else what the exit code stands for."""
        if self.error is not None:
            return self.error
        kinds = (kind for kind in ERRORS_BY_KIND.values() if kind.exit_code == self.code)
        said = f"; it ended with:\n{self.last_lines}" if self.last_lines else ""
        return next(kinds, InfrastructureError)(f"{what}{said}", kept=kept)


class Compute(ABC):
    """A place where steps run, as a value: frozen, hashable, its repr complete and the same at every parse.

    Resources (memory, processors, image) are fields of the compute. A subclass may end :meth:`run` by raising
    ``TaskDeferred`` with the method name ``execute_complete``; the operator then calls :meth:`resume` with
    the event, in another process that knows only the launch.
    """

    # How often a step whose place was taken away is started again within one try of its task.
    resumptions: int = 0

    def but(self, changes: Mapping[str, Any]) -> Self:
        """This compute with some fields different; mappings are merged key by key.

        Fields that only another kind of compute has are left out, so that one DAG serves both.

        :raises ConfigError: no compute has such a field.
        """
        own = {one.name for one in fields(self)}  # type: ignore[arg-type]
        unknown = sorted(set(changes) - own - _fields_of_all())
        if unknown:
            raise ConfigError(
                f"no compute has a field {unknown[0]!r}",
                todo=did_you_mean(unknown[0], sorted(own | _fields_of_all())),
            )
        found: dict[str, Any] = {}
        for name, value in changes.items():
            if name in own:
                below = getattr(self, name)
                merge = isinstance(below, Mapping) and isinstance(value, Mapping)
                found[name] = {**below, **value} if merge else value
        return replace(self, **found)  # type: ignore[type-var]

    @property
    def ships_code(self) -> bool:
        """Whether steps run where the DAG's folders are not, so that the user's code is packed and sent."""
        return False

    @abstractmethod
    def run(self, launch: Launch, context: Context) -> Exit:
        """Run a step to its end; find it again instead of starting a second one where that is possible.

        :raises TransientError: it is unknown whether the step runs; a retry will look again.
        """

    def resume(self, launch: Launch, context: Context, event: Mapping[str, Any]) -> Exit:
        """Carry on after a deferral."""
        raise InfrastructureError(f"{self!r} never defers, and was given an event: {dict(event)!r}")

    def run_fleet(self, launch: Launch, plan: FleetPlan, context: Context) -> None:  # noqa: B027 - no duty
        """Run the indexes of a fleet; what came of them stands in its ledger.

        The default is to do nothing here: the step itself runs them, over processes beside it.
        """

    @abstractmethod
    def cancel(self, launch: Launch) -> None:
        """End a running step; no error if it does not run."""

    def content(self) -> Mapping[str, str]:
        """What a result depends on beside the spec, such as an image digest; goes into the fingerprint."""
        return {}


def _fields_of_all() -> set[str]:
    kinds = [*Compute.__subclasses__()]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return {one.name for kind in kinds for one in fields(kind)}  # type: ignore[arg-type]
