"""Who a step is (step key) and what it computes (fingerprint)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any


def digest(*parts: str | bytes) -> str:
    """SHA-256 over parts, each with its length, so that no two lists of parts collide."""
    sha = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        sha.update(len(raw).to_bytes(8, "big"))
        sha.update(raw)
    return sha.hexdigest()


def document_digest(document: Any) -> str:
    """Digest of a JSON document, whatever the order of its keys."""
    return digest(json.dumps(document, sort_keys=True, separators=(",", ":"), default=str))


def step_key(dag_id: str, task_id: str, run_id: str, map_index: int = -1) -> str:
    """The identity of a step over all its tries: names its folder, its pod, its MLflow run.

    Readable head, unique tail; lower case letters, digits and dashes, at most 63, as Kubernetes asks.
    """
    tail = digest(dag_id, task_id, run_id, str(map_index))[:16]
    head = re.sub(r"[^a-z0-9]+", "-", f"{dag_id}-{task_id}".lower()).strip("-")[:44].strip("-")
    return f"{head}-{tail}" if head else f"step-{tail}"


def fingerprint(parts: Mapping[str, Any]) -> str:
    """What the step computes: equal parts, equal result."""
    return document_digest(dict(parts))


def explain_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Which parts of two fingerprints differ, for people: ``code: 1f3a.. -> 99c0..; tables: ...``."""

    def short(value: Any) -> str:
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
        if re.fullmatch(r"[0-9a-f]{64}", text):
            return text[:8]
        return text if len(text) <= 60 else text[:57] + "..."

    # As JSON has them: a tuple is a list there.
    before, now = (json.loads(json.dumps(dict(parts), default=str)) for parts in (before, now))
    changed = [
        f"{name}: {short(before.get(name))} -> {short(now.get(name))}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    return "; ".join(changed)
