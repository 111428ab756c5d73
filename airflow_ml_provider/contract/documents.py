"""The two documents that cross between the planes: a spec goes in, a result comes out.

Both carry ``protocol``; an unknown one is refused with both numbers, since an Airflow and a step image may
be of different age. A result is written last and whole, so that a readable one is the truth.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec

from airflow_ml_provider.contract.arguments import ARGUMENTS, VERBS, Arguments
from airflow_ml_provider.contract.errors import ConfigError, ErrorKind, did_you_mean
from airflow_ml_provider.contract.identity import document_digest

PROTOCOL = 1

_Document = TypeVar("_Document", "StepSpec", "StepResult")


class RunOf(msgspec.Struct, frozen=True, omit_defaults=True):
    """The Airflow task instance a step runs for; names only, nothing that changes with the try.

    ``reason`` is why the DAG run exists, and ``cache`` why the step is computed, for people.
    """

    dag_id: str = ""
    task_id: str = ""
    run_id: str = ""
    map_index: int = -1
    partition_key: str | None = None
    url: str | None = None
    triggered_by: str = ""
    reason: str = ""
    cache: str = ""


class Code(msgspec.Struct, frozen=True, omit_defaults=True):
    """The user's code: folders it is imported from, its digest, and the commit it was at if known.

    ``archive`` is the path in the store of a packed copy, for a place that does not have the folders; the
    SHA-256 of its bytes is ``archive_digest``. ``files`` has the beginning of each module's digest.
    """

    roots: tuple[str, ...] = ()
    digest: str = ""
    commit: str = ""
    archive: str = ""
    archive_digest: str = ""
    files: dict[str, str] = {}


class Tracking(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where MLflow is. Its credentials come from the environment of the step, never from here.

    :param uri: the tracking server; empty means the environment's ``MLFLOW_TRACKING_URI``.
    :param experiment: the experiment runs go to.
    :param browse: base of the links shown to people, where it differs from ``uri``.
    """

    uri: str = ""
    experiment: str = "Default"
    browse: str = ""


class StepSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step, pinned: run it twice and get the same."""

    verb: str
    store: str
    arguments: dict[str, Any]
    protocol: int = PROTOCOL
    step_key: str = ""
    seed: int = 0
    code: Code = msgspec.field(default_factory=Code)
    tracking: Tracking = msgspec.field(default_factory=Tracking)
    run: RunOf = msgspec.field(default_factory=RunOf)
    # What the result depends on, part by part, and the digest of it all.
    parts: dict[str, Any] = {}
    fingerprint: str = ""

    def typed_arguments(self) -> Arguments:
        """The arguments as the verb's own type.

        :raises ConfigError: an argument is unknown, missing or of the wrong type; names it.
        """
        try:
            return msgspec.convert(self.arguments, ARGUMENTS[self.verb])
        except msgspec.ValidationError as error:
            raise ConfigError(f"the arguments of the {self.verb} step are wrong: {error}") from error

    def encode(self) -> bytes:
        """As JSON."""
        return msgspec.json.format(msgspec.json.encode(self, order="deterministic"), indent=1)


class Publication(msgspec.Struct, frozen=True, omit_defaults=True):
    """A table version that a step published, validated or found already published."""

    name: str
    version: int
    uri: str
    partition_by: str | None = "ds"
    partitions: str = ""
    rows: int = 0
    changed: bool = True


class ModelVersion(msgspec.Struct, frozen=True, omit_defaults=True):
    """A version in the MLflow registry and the run that made it."""

    name: str
    version: int
    run_id: str = ""
    alias: str = ""


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a step failed; ``traceback`` holds the user's own frames only."""

    kind: ErrorKind
    error: str
    message: str
    traceback: str = ""


class StepResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What came of a step.

    :param table: the table that downstream steps read.
    :param tables: other tables it published, by role ("quarantine").
    :param verdict: the decision document of a validate, evaluate or monitor step.
    :param metrics: numbers worth a plot.
    :param summary: facts for people, shown in the task log and by the demo.
    :param links: name to URL or URI.
    :param reason: why it was skipped.
    :param timely: it also depends on when it was made, so only tries of this step reuse it.
    """

    verb: str
    step_key: str
    fingerprint: str
    status: Literal["success", "skipped", "failed"]
    protocol: int = PROTOCOL
    table: Publication | None = None
    tables: dict[str, Publication] = {}
    model: ModelVersion | None = None
    verdict: dict[str, Any] | None = None
    metrics: dict[str, float] = {}
    summary: dict[str, Any] = {}
    links: dict[str, str] = {}
    warnings: tuple[str, ...] = ()
    mlflow_run_id: str = ""
    reason: str = ""
    failure: Failure | None = None
    seconds: float = 0.0
    parts: dict[str, Any] = {}
    timely: bool = False

    def encode(self) -> bytes:
        """As JSON."""
        return msgspec.json.format(msgspec.json.encode(self, order="deterministic"), indent=1)

    def manifest(self) -> dict[str, Any]:
        """The small document that goes to XCom: references and numbers, never data, and no parts."""
        document: dict[str, Any] = msgspec.to_builtins(self)
        for internal in ("parts", "failure"):
            document.pop(internal, None)
        return document


def read_spec(content: bytes, *, source: str) -> StepSpec:
    """Read a spec, completing one that was written by hand.

    :raises ConfigError: not JSON, of another protocol, an unknown verb or wrong arguments.
    """
    spec = _decode(content, StepSpec, "spec", source)
    if spec.verb not in VERBS:
        raise ConfigError(f"{source}: unknown verb {spec.verb!r}", todo=did_you_mean(spec.verb, VERBS))
    spec.typed_arguments()
    mark = spec.fingerprint or document_digest(
        {"verb": spec.verb, "arguments": spec.arguments, "seed": spec.seed}
    )
    return msgspec.structs.replace(
        spec, fingerprint=mark, step_key=spec.step_key or f"by-hand-{spec.verb}-{mark[:16]}"
    )


def read_result(content: bytes, *, source: str) -> StepResult:
    """Read a result.

    :raises ConfigError: it is not one, or of another protocol.
    """
    return _decode(content, StepResult, "result", source)


def _decode(content: bytes, wanted: type[_Document], what: str, source: str) -> _Document:
    try:
        raw = msgspec.json.decode(content)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{source} is not a {what}: {error}") from error
    protocol = raw.get("protocol", PROTOCOL) if isinstance(raw, dict) else None
    if protocol != PROTOCOL:
        raise ConfigError(
            f"{source} is a {what} of protocol {protocol}; this installation speaks protocol {PROTOCOL}",
            todo="run the Airflow side and the step side on compatible versions of airflow-ml-provider",
        )
    try:
        return msgspec.convert(raw, wanted)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source} is not a valid {what}: {error}") from error
