"""The pods that do one stage together: the names under which they find each other.

Each is an index of one Indexed Job, whose pod's host name is `<job>-<index>`; a headless Service of the Job's name
makes `<job>-<index>.<job>` an address, https://kubernetes.io/docs/concepts/workloads/controllers/job/#completion-mode.
"""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]

JOB_NAME_LABEL = "batch.kubernetes.io/job-name"  # set on pods by the Job controller, as the next
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
NODES_LABEL = "radit-job.io/nodes"  # how many they are, on the Job and on its pods; only where there are several
PORT = 29400  # where they meet, on the first; the default of torch's elastic launcher


def endpoint(job: str) -> str:
    """Where the pods of the Job of this name meet, as each of them can resolve it."""
    return f"{job}-0.{job}:{PORT}"


def n_nodes(item: Object) -> int:
    """How many pods a Job, or the Job of a pod, has that do its stage together; 1 where it is none such."""
    return int((item["metadata"].get("labels") or {}).get(NODES_LABEL, 1))


def node_of(pod: Object) -> int | None:
    """Which of the pods that do a stage together it is; None where its Job is none such."""
    labels = pod["metadata"].get("labels") or {}
    return int(labels[INDEX_LABEL]) if NODES_LABEL in labels and INDEX_LABEL in labels else None


def service_of(job: Object) -> Object | None:
    """The headless Service by which the pods of a Job find each other; None where they have no need to.

    Of a Job that the API server has taken it is owned by it, and goes with it.
    """
    metadata = job["metadata"]
    if n_nodes(job) == 1:
        return None
    own: Object = {name: metadata[name] for name in ("name", "namespace") if name in metadata}
    own["labels"] = metadata["labels"]
    if "uid" in metadata:
        # Without blockOwnerDeletion, for which some clusters want one more permission.
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
        own["ownerReferences"] = [owner]
    spec = {
        "clusterIP": "None",
        "selector": {JOB_NAME_LABEL: metadata["name"]},
        # They must find each other to become ready at all, and are never asked whether they are.
        "publishNotReadyAddresses": True,
        "ports": [{"name": "rendezvous", "port": PORT, "targetPort": PORT, "protocol": "TCP"}],
    }
    return {"apiVersion": "v1", "kind": "Service", "metadata": own, "spec": spec}


def is_of_another(service: Object, job: Object) -> bool:
    """Whether a Service belongs to an earlier Job of the same name, and will go with it."""
    owners = service["metadata"].get("ownerReferences") or []
    return bool(owners) and job["metadata"]["uid"] not in [owner.get("uid") for owner in owners]
