"""What changed between two model versions: data, code by file, parameters, features, place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.contract.brief import shortened
from airflow_ml_provider.contract.errors import MLError, TransientError
from airflow_ml_provider.steps.origin import FINGERPRINT

if TYPE_CHECKING:
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.versions import Registered

# Parts of a training's fingerprint that say nothing to people, or that other lines say better.
_NOT_SHOWN = {"verb", "protocol", "code", "model", "trusted_types"}
_LONGEST = 160


def changes(step: StepContext, champion: Registered, candidate: Registered) -> list[dict[str, str]]:
    """Lines of ``what``, ``champion`` and ``candidate``, those of data first, then code, then parameters.

    Read from what the two training runs kept of themselves; one that is gone or older makes it a comparison
    of the versions' tags.
    """
    before, now = (_made_of(step, each) for each in (champion, candidate))
    found = [*_tags(champion, candidate)]
    if before is not None and now is not None:
        found += _files(before.get("files") or {}, now.get("files") or {})
        found += _parts(before.get("parts") or {}, now.get("parts") or {})
    return found


def _made_of(step: StepContext, version: Registered) -> dict[str, Any] | None:
    if not version.run_id:
        return None
    try:
        uri = f"runs:/{version.run_id}/{FINGERPRINT}"
        path = step.tracker.download(uri, step.scratch / f"made-of-{version.version}")
        document: dict[str, Any] = json.loads(path.read_text())
    except TransientError:
        # Unknown is not gone: the same verdict would be told otherwise the next time.
        raise
    except (MLError, OSError, ValueError) as error:
        step.log.warning("what %s was made of cannot be read any more: %s", version, error)
        return None
    return document


def _tags(champion: Registered, candidate: Registered) -> Iterator[dict[str, str]]:
    for tag, what in (
        ("tables", "training table"),
        ("partitions", "training partitions"),
        ("feature_hash", "feature definition"),
        ("code_commit", "commit"),
        ("training_reason", "why it was trained"),
    ):
        before, now = champion.tags.get(tag, ""), candidate.tags.get(tag, "")
        if before != now:
            yield _line(what, before, now)


def _files(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[dict[str, str]]:
    for module in sorted({*before, *now}):
        if before.get(module) != now.get(module):
            yield _line(f"code of {module}", before.get(module, ""), now.get(module, ""))


def _parts(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    for name in sorted({*before, *now} - _NOT_SHOWN - {"table", "partitions"}):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            for key in sorted({*old, *new}):
                if old.get(key) != new.get(key):
                    yield _line(f"{name} {key}", old.get(key), new.get(key))
        else:
            yield _line(name, old, new)


def _line(what: str, before: Any, now: Any) -> dict[str, str]:
    return {"what": what, "champion": _short(before), "candidate": _short(now)}


def _short(value: Any) -> str:
    if value is None or value == "":
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    if len(text) in (40, 64) and all(each in "0123456789abcdef" for each in text):
        return text[:12]
    return shortened(text, _LONGEST)
