"""Whether a cluster knows SparkApplications: their permission can be given where nobody installed them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_ml_provider.cli.doctor_findings import Finding, fail, ok, skip
from airflow_ml_provider.compute.kubernetes_errors import message_of
from airflow_ml_provider.compute.spark_application import GROUP, PLURAL, VERSION

if TYPE_CHECKING:
    from airflow_ml_provider.compute.cluster import Cluster

CHECK = "Spark operator"
_NOBODYS = "airflow-ml-doctor"
_TIMEOUT = 15


def check_operator(cluster: Cluster, missing: list[str]) -> Finding:
    """By asking for an application that nobody has made: the answer differs.

    :param missing: permissions that are missing, as "verb resource".
    """
    if f"get {PLURAL}" in missing:
        return skip(CHECK, f"needs the permission to get {PLURAL}")
    about = {"object": f"{PLURAL}.{GROUP}", "namespace": cluster.namespace, "verb": "get"}
    try:
        cluster.hook.custom_object_client.get_namespaced_custom_object(
            GROUP, VERSION, cluster.namespace, PLURAL, _NOBODYS, _request_timeout=_TIMEOUT
        )
    except Exception as error:
        said = message_of(error) if getattr(error, "status", None) else f"{type(error).__name__}: {error}"
        if getattr(error, "status", None) != 404:
            return fail(CHECK, f"SparkApplications cannot be looked at: {said[:300]}", **about)
        if _NOBODYS not in said:
            return fail(
                CHECK,
                f"the cluster knows no SparkApplications ({GROUP}/{VERSION})",
                "install the Spark operator (kubeflow's Helm chart, 2.4 or newer) in it",
                **about,
            )
    return ok(CHECK, f"the cluster knows SparkApplications ({GROUP}/{VERSION})")
