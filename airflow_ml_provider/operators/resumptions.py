"""How often a step was started again within one try, because the cluster took its place away.

Kept in the store: a try that defers goes on in another process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_ml_provider.contract.store import Store


def claim(store: Store, key: str, context: Context, most: int) -> bool:
    """Whether it may be started once more; counts it."""
    path, this_try = f"runs/{key}/resumptions.json", int(context["ti"].try_number)
    known = store.read_json(path) or {}
    times = int(known.get("times", 0)) if known.get("try") == this_try else 0
    if times >= most:
        return False
    store.write_json(path, {"try": this_try, "times": times + 1})
    return True
