"""How a trigger reaches a cluster: by what its compute names, never by a copy of credentials."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook


def async_hook(conn_id: str | None, kubeconfig: str, context: str | None) -> AsyncKubernetesHook:
    """The provider's hook for the triggerer; it knows no path of a kubeconfig, so the file is read here."""
    import yaml
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook

    given = yaml.safe_load(Path(kubeconfig).read_text()) if kubeconfig else None
    return AsyncKubernetesHook(conn_id=conn_id, config_dict=given, cluster_context=context or None)
