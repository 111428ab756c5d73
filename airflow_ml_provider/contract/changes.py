"""Why a step is not the same as one before it, in words for people: from the parts of their fingerprints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from airflow_ml_provider.contract.identity import explain_difference
from airflow_ml_provider.contract.memo import CONTENTS, SOURCE, Made

# The version of this package that steps are made with.
_PACKAGE = "package"
_MOST_FILES = 5


def explain(before: Made, parts: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """What differs: ``code changed (features.py); table flights 41 -> 42``; empty if nothing does.

    :param before: what it is compared with.
    :param parts: those of the step now.
    :param files: the user's modules now, with the beginning of each one's digest.
    """
    # As JSON has them: a tuple is a list there.
    old, new = (json.loads(json.dumps(dict(one), default=str)) for one in (before.parts, parts))
    return "; ".join(_differences(old, new, before.files, files))


def _differences(
    old: dict[str, Any], new: dict[str, Any], old_files: Mapping[str, str], files: Mapping[str, str]
) -> Iterator[str]:
    if old.get("code") != new.get("code"):
        yield _of_code(old_files, files)
    known, now = old.get(CONTENTS) or {}, new.get(CONTENTS) or {}
    if known.get(SOURCE) != now.get(SOURCE):
        yield (
            "the source's files changed"
            if known.get(SOURCE) and now.get(SOURCE)
            else "the source is looked at"
        )
    for name in sorted({*old, *new} - {"code", CONTENTS}):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        tables = _tables(before), _tables(after)
        if tables[0] is None or tables[1] is None:
            yield _of_value(name, before, after)
            continue
        for table in dict.fromkeys((*tables[0], *tables[1])):
            if said := _of_table(table, tables[0].get(table), tables[1].get(table), known, now):
                yield said


def _of_code(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    changed = [
        f"{name.replace('.', '/')}.py{_how(name, old, new)}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    if not changed:
        return "code changed"
    more = f" and {len(changed) - _MOST_FILES} more" if len(changed) > _MOST_FILES else ""
    return f"code changed ({', '.join(changed[:_MOST_FILES])}{more})"


def _how(name: str, old: Mapping[str, str], new: Mapping[str, str]) -> str:
    return "" if name in old and name in new else " is new" if name in new else " is gone"


def _of_table(
    name: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    known: Mapping[str, Any],
    now: Mapping[str, Any],
) -> str:
    if before is None or after is None:
        return f"table {name} is read now" if before is None else f"table {name} is no longer read"
    if name in known and known.get(name) == now.get(name):
        rest = {key: (before.get(key), after.get(key)) for key in before if key != "version"}
        return "; ".join(f"table {name}: {key} {a} -> {b}" for key, (a, b) in rest.items() if a != b)
    if before.get("version") != after.get("version"):
        return f"table {name} {before.get('version')} -> {after.get('version')}"
    return explain_difference({f"table {name}": before}, {f"table {name}": after})


def _of_value(name: str, before: Any, after: Any) -> str:
    if name == _PACKAGE:
        return f"airflow-ml-provider {before} -> {after}"
    versions = [_version_of_model(value) for value in (before, after)]
    if all(versions):
        return f"{name}: {versions[0]} -> {versions[1]}"
    return explain_difference({name: before}, {name: after})


def _version_of_model(value: Any) -> str:
    """A pinned model in short, "none" for the lack of one; empty for what is no model."""
    if value is None:
        return "none"
    if isinstance(value, Mapping) and "alias" in value and value.get("version") is not None:
        return f"{value.get('name')}/{value['version']}"
    return ""


def _tables(value: Any) -> dict[str, Mapping[str, Any]] | None:
    """The pinned tables that a part names, by name; None for a part that is something else."""
    several = value if isinstance(value, list) else [value]
    found = {
        str(one["name"]): one
        for one in several
        if isinstance(one, Mapping) and "partition_by" in one and one.get("version") is not None
    }
    return found if found and len(found) == len(several) else None
