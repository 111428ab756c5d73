"""The Spark operator: submits applications, which here is to make the driver's pod, and reports their state.

``spark-submit`` is not there: the driver's container runs the application's file with Python, without a JVM.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from .kinds import ApiError, Object, dig, now

if TYPE_CHECKING:
    from . import Cluster

DRIVER = "spark-kubernetes-driver"
OVER = ("COMPLETED", "FAILED")
STATES = {"Pending": "SUBMITTED", "Running": "RUNNING", "Succeeded": "COMPLETED", "Failed": "FAILED"}


class SparkOperator:
    """Works while ``running``; ``refusal`` is what ``spark-submit`` fails with."""

    def __init__(self, cluster: Cluster):
        self.cluster, self.store = cluster, cluster.store
        self.running = True
        self.refusal = ""

    def sync(self) -> None:
        if not self.running:
            return
        for application in self.store.list("sparkapplications"):
            try:
                self._sync(application)
            except ApiError as error:
                if error.code != 404:  # gone meanwhile
                    raise

    def _sync(self, application: Object) -> None:
        meta, state = application["metadata"], dig(application, "status.applicationState.state", "")
        if state in OVER:
            return
        if application["spec"].get("suspend"):
            self._tell(application, "SUSPENDED")
        elif state in ("", "SUSPENDED", "RESUMING"):
            self._submit(application)
        elif state == "SUBMISSION_FAILED":
            self._tell(application, "FAILED", dig(application, "status.applicationState.errorMessage", ""))
        else:
            driver = self.store.find("pods", meta["namespace"], f"{meta['name']}-driver")
            if driver is None:
                self._tell(application, "FAILED", "driver pod not found")
            else:
                self._tell(application, STATES[dig(driver, "status.phase", "Pending")])

    def _submit(self, application: Object) -> None:
        if self.refusal:
            self._tell(application, "SUBMISSION_FAILED", f"failed to run spark-submit: {self.refusal}")
            return
        meta, spec = application["metadata"], application["spec"]
        template = copy.deepcopy(spec["driver"]["template"])
        labels = {"sparkoperator.k8s.io/app-name": meta["name"], "spark-role": "driver"}
        owner = {key: application[key] for key in ("apiVersion", "kind")}
        owner |= {"name": meta["name"], "uid": meta["uid"], "controller": True, "blockOwnerDeletion": True}
        container = next(each for each in template["spec"]["containers"] if each["name"] == DRIVER)
        main = spec["mainApplicationFile"].removeprefix("local://")
        container |= {"image": spec["image"], "command": ["python"], "args": [main, *spec["arguments"]]}
        if "memory" in spec["driver"]:
            heap, rest = (
                int(spec["driver"][name].removesuffix("m")) for name in ("memory", "memoryOverhead")
            )
            amount = {"memory": f"{heap + rest}Mi"}
            container["resources"] = {"requests": amount, "limits": amount}
        template["spec"] |= {"restartPolicy": "Never", "serviceAccountName": spec["driver"]["serviceAccount"]}
        metadata = {**template["metadata"], "name": f"{meta['name']}-driver", "ownerReferences": [owner]}
        metadata["labels"] = {**metadata["labels"], **labels}
        pod = {"metadata": metadata, "spec": template["spec"]}
        try:
            self.cluster.create("pods", meta["namespace"], pod)
        except ApiError as error:
            self._tell(application, "SUBMISSION_FAILED", f"failed to run spark-submit: {error}")
            return
        self._tell(application, "SUBMITTED")

    def _tell(self, application: Object, state: str, message: str = "") -> None:
        meta = application["metadata"]
        told = {"state": state, **({"errorMessage": message} if message else {})}
        if dig(application, "status.applicationState") == told:
            return

        def write(new: Object) -> None:
            new["status"] = {"applicationState": told, "lastSubmissionAttemptTime": now()}

        self.store.update("sparkapplications", meta["namespace"], meta["name"], write, uid=meta["uid"])
