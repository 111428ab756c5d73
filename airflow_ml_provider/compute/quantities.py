"""Amounts as Kubernetes writes them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from airflow_ml_provider.contract.errors import ConfigError

_SIZES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
          "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}  # fmt: skip


def requests_and_limits(
    resources: Mapping[str, Any], memory_factor: float = 1.0
) -> dict[str, dict[str, str]]:
    """A container's resources: a flat mapping is both, so that a step has what it asks for and no more."""
    if set(resources) <= {"requests", "limits"}:
        both = {kind: dict(resources.get(kind) or {}) for kind in ("requests", "limits")}
    elif not {"requests", "limits"} & set(resources):
        both = {"requests": dict(resources), "limits": dict(resources)}
    else:
        raise ConfigError(
            f"resources={dict(resources)!r} mix requests and limits with names of resources",
            todo='write {"cpu": 2, "memory": "4Gi"}, or {"requests": {...}, "limits": {...}}',
        )
    for kind in both.values():
        kind_of = {name.replace("_", "-"): value for name, value in kind.items()}
        kind.clear()
        kind.update({name: str(value) for name, value in kind_of.items()})
        if "memory" in kind and memory_factor > 1:
            kind["memory"] = f"{math.ceil(quantity(kind['memory']) * memory_factor / 2**20)}Mi"
    return {kind: values for kind, values in both.items() if values}


def quantity(text: str) -> float:
    """A Kubernetes quantity as a number: ``"4Gi"`` in bytes, ``"500m"`` in units.

    :raises ConfigError: it is none.
    """
    found = re.fullmatch(r"([0-9.]+)(m|[kMGT]|[KMGT]i)?", str(text).strip())
    if not found:
        raise ConfigError(f"{text!r} is no Kubernetes quantity", todo='write it as "500m", 2 or "4Gi"')
    return float(found[1]) / 1000 if found[2] == "m" else float(found[1]) * _SIZES[found[2] or ""]
