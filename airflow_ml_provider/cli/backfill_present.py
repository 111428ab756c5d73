"""What a run would find now: tables, models, and the code and settings that it would work with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from airflow_ml_provider.cli.backfill_evidence import Seen
from airflow_ml_provider.cli.backfill_models import Named, followed
from airflow_ml_provider.cli.backfill_tables import table_now
from airflow_ml_provider.contract.code import code_digest, split_entry_point
from airflow_ml_provider.contract.documents import StepSpec, read_spec
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.identity import digest
from airflow_ml_provider.contract.staleness import Clock, Made, Published, Read, TableNow
from airflow_ml_provider.contract.store import Store

# Where each verb names the user's code, as its operator does.
_ENTRY_POINTS: dict[str, tuple[str, ...]] = {
    "ingest": ("transform", "suite", "schema"),
    "validate": ("suite",),
    "features": ("features", "suite"),
    "train": ("function",),
    "predict": ("suite",),
    "monitor": ("features",),
    "fleet": ("function",),
    "search": ("function", "sampler"),
}
# Which other partitions of a table matter, where not only the same one does.
_CLOCKS: dict[tuple[str, str], Clock] = {
    ("features", "tables"): "until",
    ("monitor", "tables"): "from",
    ("evaluate", "tables"): "from",
}
_WHOLE = {("fleet", "over"), ("fleet", "table"), ("search", "table")}
# Not settings: they name the partition or a moment, or follow from the run.
_OF_THE_RUN = {
    "partitions", "contents", "known_at", "verdict", "replaces", "by_partition", "approval", "promoted_by",
    # A run that is mute asks for no retraining, whatever its findings.
    "retrain",
}  # fmt: skip


def made_by(seen: Seen, partition: str) -> Made:
    """A result's parts, sorted by how they are compared."""
    parts, verb = seen.result.parts, seen.result.verb
    published = seen.result.table
    wrote = published is not None and seen.partitions and verb not in ("validate", "evaluate")
    label = str(parts.get("partitions", "") or "")
    return Made(
        settings={
            name: _without_pins(value, [label, partition])
            for name, value in parts.items()
            if name not in _OF_THE_RUN
        },
        reads=tuple(_reads(verb, parts, partition if seen.partitions else "")),
        models=tuple(followed(verb, parts, partition)),
        published=Published(published.name, published.version, partition) if wrote and published else None,
    )


class World:
    """Looks up what there is now, each thing once.

    :param code: folders of the user's code; those of each task's newest run when left out.
    :param ignore: parts that are not to be looked up.
    """

    def __init__(self, store: Store, code: Iterable[str] = (), ignore: Iterable[str] = ()) -> None:
        self.store = store
        self.code = [str(Path(root).resolve()) for root in code]
        self.ignore = frozenset(ignore)
        self.notes: dict[str, None] = {}
        self.table: Callable[[str], TableNow | None] = cache(lambda name: table_now(store, name))
        self.named = Named(store)

    def settings(self, newest: Seen) -> dict[str, Any]:
        """The settings that a run of this task would have: those of its newest run, with the code as it is now."""
        partition = newest.partitions[0] if len(newest.partitions) == 1 else ""
        found = dict(made_by(newest, partition).settings)
        if "code" in found and "code" not in self.ignore:
            found["code"] = self._code(newest, str(found["code"]))
        return found

    def tables(self, made: Iterable[Made]) -> dict[str, TableNow]:
        """The tables that were read and written, as they are."""
        names = {read.table for one in made for read in one.reads}
        names |= {one.published.table for one in made if one.published}
        found = {name: self.table(name) for name in sorted(names)}
        return {name: table for name, table in found.items() if table is not None}

    def models(self, made: Iterable[Made], newest: Seen) -> dict[str, int | None]:
        """The versions that the followed aliases name."""
        used = {model for one in made for model in one.models}
        if not used or "model" in self.ignore:
            return {str(model): model.version for model in used}
        uri = self._spec(newest).tracking.uri
        return {str(model): self.named.version(model, uri) for model in used}

    def _code(self, newest: Seen, last: str) -> str:
        if not last:
            return last
        spec = self._spec(newest)
        roots = self.code or [root for root in spec.code.roots if Path(root).is_dir()]
        if not roots:
            self.notes[
                f"code of {newest.task_id}: its folders are not on this machine, so the code of its newest run "
                f"({newest.run_id}) is taken for the present one; --code FOLDER compares with a folder"
            ] = None
            return last
        self.notes[f"code of {newest.task_id}: as it is in {', '.join(roots)}"] = None
        return digest_of(spec, tuple(roots))

    def _spec(self, seen: Seen) -> StepSpec:
        content = self.store.read(f"runs/{seen.key}/spec.json")
        if content is None:
            raise ConfigError(f"{self.store.run_uri(seen.key, 'spec.json')} is gone", todo="restore it")
        return read_spec(content, source=self.store.run_uri(seen.key, "spec.json"))


def digest_of(spec: StepSpec, roots: tuple[str, ...]) -> str:
    """The digest that the code of a step has in these folders.

    :raises MLError: its code is not there.
    """
    given = entry_points(spec.verb, spec.arguments)
    files = [name for name in given if name.endswith(".json")]
    modules = [split_entry_point(name)[0] for name in given if name not in files]
    found = code_digest(modules, roots) if modules else ""
    if files:
        found = digest(found, *(_file(name, roots) for name in files))
    return found


def entry_points(verb: str, arguments: Mapping[str, Any]) -> list[str]:
    """The user's code that a step calls, as its operator names it."""
    if verb == "evaluate":
        sliced = [
            *(arguments.get("slices") or ()),
            *(one.get("slice_by") for one in arguments.get("gates") or ()),
        ]
        behaviour = arguments.get("behaviour")
        found = [*dict.fromkeys(name for name in sliced if name and ":" in name)]
        found += [name] if (name := arguments.get("features")) else []
        return [*found, *([f"{behaviour}:tests"] if behaviour else [])]
    named = (arguments.get(name) for name in _ENTRY_POINTS.get(verb, ()))
    # A search names Optuna's own samplers plainly.
    return [name for name in named if isinstance(name, str) and (":" in name if verb == "search" else name)]


def _reads(verb: str, parts: Mapping[str, Any], partition: str) -> Iterator[Read]:
    for name, value in parts.items():
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if name != "publish" and _is_table(one) and one["version"] is not None:
                where = "" if (verb, name) in _WHOLE else partition
                yield Read(one["name"], int(one["version"]), where, _CLOCKS.get((verb, name), "same"))


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) and "partition_by" in value and "version" in value


def _without_pins(value: Any, names: list[str]) -> Any:
    """A part with its versions taken out, and what names the partition replaced by a word."""
    if isinstance(value, str):
        for name in names:
            value = value.replace(name, "{partition}") if name else value
        return value
    if isinstance(value, Mapping):
        pinned = _is_table(value) or ("alias" in value and "version" in value)
        return {
            key: _without_pins(inner, names)
            for key, inner in value.items()
            if not (pinned and key == "version")
        }
    if isinstance(value, (list, tuple)):
        return [_without_pins(inner, names) for inner in value]
    return value


def _file(name: str, roots: Iterable[str]) -> bytes:
    for root in roots:
        if (found := Path(root) / name).is_file():
            return found.read_bytes()
    raise ConfigError(f"there is no file {name!r} below {', '.join(roots)}", todo="check --code")
