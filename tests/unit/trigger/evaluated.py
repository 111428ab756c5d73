"""What an evaluate step returns."""

from __future__ import annotations

from typing import Any

EVALUATED: dict[str, Any] = {
    "verb": "evaluate",
    "step_key": "k",
    "status": "success",
    "metrics": {"roc_auc": 0.7512, "log_loss": 0.41},
    "model": {"name": "delays", "version": 4},
    "links": {"Report": "https://mlflow.example/report", "MLflow run": "https://mlflow.example/run"},
    "verdict": {
        "decision": "promote",
        "model": {"name": "delays", "version": 4},
        "champion": {"name": "delays", "version": 3},
        "rows": 12_345,
        "positives": 2_000,
        "metrics": {"roc_auc": {"value": 0.7512, "low": 0.745, "high": 0.757}},
        "champion_metrics": {"roc_auc": {"value": 0.7401, "low": 0.734, "high": 0.746}},
        "differences": {"roc_auc": {"value": 0.0111, "low": 0.006, "high": 0.016}},
        "gates": [{"gate": "roc_auc >= 0.7", "passed": True, "value": 0.7512, "reason": "0.7512"}],
        "slices": [
            {"column": "origin", "value": "JFK", "rows": 4000, "positives": 700,
             "roc_auc": {"value": 0.73, "low": 0.72, "high": 0.74}, "difference": None},
        ],
    },
}  # fmt: skip
