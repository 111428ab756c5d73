"""Kubernetes quantities ("500m", "2Gi") and what a pod asks for."""

from __future__ import annotations

from decimal import Decimal

from .kinds import Object, dig

UNITS = {"m": Decimal("0.001"), "": Decimal(1)}
UNITS |= {unit: Decimal(1000) ** power for power, unit in enumerate(("k", "M", "G", "T", "P"), 1)}
UNITS |= {unit: Decimal(1024) ** power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi"), 1)}


def parse(quantity: str | float) -> Decimal:
    text = str(quantity)
    number = text.rstrip("mkMGTPi")
    return Decimal(number) * UNITS[text[len(number) :]]


def show(value: Decimal) -> str:
    """As the API prints a quantity: ``500m``, ``2``, ``1Gi``."""
    if value != value.to_integral_value():
        return f"{value * 1000:.0f}m"
    for unit in ("Pi", "Ti", "Gi", "Mi", "Ki"):
        if value and value % UNITS[unit] == 0:
            return f"{value / UNITS[unit]:.0f}{unit}"
    return f"{value:.0f}"


def pod_requests(pod: Object, of: str = "requests") -> dict[str, Decimal]:
    """The sum over containers, or the largest init container where that is more."""
    total: dict[str, Decimal] = {}
    for container in pod["spec"]["containers"]:
        for name, value in dig(container, f"resources.{of}", {}).items():
            total[name] = total.get(name, Decimal(0)) + parse(value)
    for container in pod["spec"].get("initContainers") or []:
        for name, value in dig(container, f"resources.{of}", {}).items():
            total[name] = max(total.get(name, Decimal(0)), parse(value))
    return total
