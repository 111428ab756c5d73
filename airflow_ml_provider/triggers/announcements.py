"""Announcements of drift and retraining on their way from a monitoring task to the triggerer: one document each.

A document is deleted once its event is in Airflow, so that none is lost over a restart of the triggerer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from airflow_ml_provider.contract.identity import digest
from airflow_ml_provider.contract.store import Store

Kind = Literal["drift", "retrain"]

# The schedule may have been paused: what was found long before it was resumed is no reason to act now.
KEPT_FOR = timedelta(days=1)
# A request holds back others; until it is out of date it should reach whoever is to act on it.
REQUESTS_KEPT_FOR = timedelta(days=7)


def post(store: Store, model: str, key: str, facts: Mapping[str, Any], kind: Kind = "drift") -> None:
    """Announce drift of a model, or that it is to be trained again; the same key tells it again, not twice."""
    document = {**facts, "announced_at": datetime.now(UTC).isoformat(timespec="seconds")}
    store.write_json(f"{_folder(model, kind)}/{key}.json", document)


def waiting(store: Store, model: str, kind: Kind = "drift") -> dict[str, dict[str, Any]]:
    """The announcements that wait, oldest first, by path; those that are too old are removed."""
    found = {path: store.read_json(path) for path in store.paths(_folder(model, kind))}
    oldest = datetime.now(UTC) - (KEPT_FOR if kind == "drift" else REQUESTS_KEPT_FOR)
    ordered = sorted(
        ((path, doc) for path, doc in found.items() if doc), key=lambda item: item[1]["announced_at"]
    )
    for path, document in ordered:
        if datetime.fromisoformat(document["announced_at"]) < oldest:
            store.delete(path)
    return {path: doc for path, doc in ordered if datetime.fromisoformat(doc["announced_at"]) >= oldest}


def remove(store: Store, path: str) -> None:
    """Take an announcement away."""
    store.delete(path)


def _folder(model: str, kind: Kind) -> str:
    safe = model if re.fullmatch(r"[A-Za-z0-9_.-]+", model) else digest(model)[:32]
    return f"announcements/{kind}/{safe}"
