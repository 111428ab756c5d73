"""Computes: one value saying where a step runs."""

from __future__ import annotations

from airflow_ml_provider.compute.base import Compute, Exit, Launch
from airflow_ml_provider.compute.kubernetes import KubernetesCompute
from airflow_ml_provider.compute.local import LocalCompute
from airflow_ml_provider.compute.spark import SparkCompute
from airflow_ml_provider.compute.spark_kubernetes import SparkKubernetesCompute

__all__ = [
    "Compute",
    "Exit",
    "KubernetesCompute",
    "Launch",
    "LocalCompute",
    "SparkCompute",
    "SparkKubernetesCompute",
]
