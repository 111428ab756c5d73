"""What the provider adds to the Airflow UI."""

from __future__ import annotations

from airflow_ml_provider.plugin.navigation import MlPlugin

__all__ = ["MlPlugin"]
