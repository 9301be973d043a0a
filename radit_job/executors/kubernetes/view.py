"""What the watches have told so far: the stages' Jobs, their pods, and the cluster's events about them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from radit_job.executors.kubernetes.node_group import INDEX_LABEL, JOB_NAME_LABEL
from radit_job.executors.kubernetes.watch import Change

Object = dict[str, Any]

JOB_UID_LABEL = "batch.kubernetes.io/controller-uid"  # set on pods by the Job controller
FINAL = ("Complete", "Failed")  # a Job's last condition


class View:
    """The cluster as last seen. One thread applies the changes and reads it."""

    def __init__(self) -> None:
        self.jobs: dict[str, Object] = {}
        self.listed: set[str] = set()  # the resources of which all that there was is known
        self._pods: dict[str, dict[str, Object]] = {}  # by Job, then by pod
        self._events: dict[str, Object] = {}

    def apply(self, change: Change) -> None:
        """Take a change in."""
        if change.kind == "LISTED":
            self.listed.add(change.resource)
            return
        item, name = change.item, change.item["metadata"]["name"]
        if change.resource == "jobs":
            held: dict[str, Object] = self.jobs
        elif change.resource == "pods":
            held = self._pods.setdefault(job_of_pod(item), {})
        else:
            held = self._events
        if change.kind == "DELETED":
            held.pop(name, None)
        else:
            held[name] = item

    def forget_events(self) -> None:
        """They are no longer watched."""
        self._events.clear()

    def pods_of(self, job: Object) -> list[Object]:
        """The Job's own pods; those of a Job of the same name before it are left out."""
        name, uid = job["metadata"]["name"], job["metadata"]["uid"]
        pods = self._pods.get(name, {}).values()
        return [pod for pod in pods if pod["metadata"].get("labels", {}).get(JOB_UID_LABEL, uid) == uid]

    def events_of(self, job: Object) -> list[Object]:
        """What the cluster said about the Job and its pods, oldest first."""
        uids = {job["metadata"]["uid"], *(pod["metadata"]["uid"] for pod in self.pods_of(job))}
        told = [event for event in self._events.values() if event.get("involvedObject", {}).get("uid") in uids]
        return sorted(told, key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")


def job_of_pod(pod: Object) -> str:
    """The name of the Job that made a pod."""
    return str(pod["metadata"].get("labels", {}).get(JOB_NAME_LABEL, ""))


def is_about(change: Change, job: str) -> bool:
    """Whether a pod is of the Job of this name, or an event is about the Job or one of its pods."""
    if change.resource == "pods":
        return job_of_pod(change.item) == job
    about = str(change.item.get("involvedObject", {}).get("name", ""))
    return about == job or about.startswith(f"{job}-")


def shard_of(pod: Object) -> int | None:
    """The pod's completion index; None where its Job has but one pod at a time."""
    index = pod["metadata"].get("labels", {}).get(INDEX_LABEL)
    return None if index is None else int(index)


def has_ended(pod: Object | None) -> bool:
    """Whether a pod will print no more."""
    return pod is None or pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def is_over(job: Object) -> bool:
    """Whether a Job has succeeded or failed, and has no pod that runs."""
    return any(found in FINAL for found in _true_conditions(job))


def is_going(job: Object) -> bool:
    """Whether a Job is being deleted."""
    return job["metadata"].get("deletionTimestamp") is not None


def _true_conditions(job: Object) -> Iterator[str]:
    for condition in job.get("status", {}).get("conditions") or ():
        if condition.get("status") == "True":
            yield str(condition.get("type"))


def slim_job(job: Object) -> Object:
    """A Job without its pod template, which nobody reads."""
    return {**job, "spec": {key: value for key, value in job["spec"].items() if key != "template"}}


def slim_pod(pod: Object) -> Object:
    """What is needed of a pod: of one that succeeded hardly anything, for a divided stage has many."""
    metadata, status = pod["metadata"], pod.get("status", {})
    kept = ("name", "uid", "resourceVersion", "labels", "creationTimestamp", "deletionTimestamp")
    slim: Object = {"metadata": {key: metadata[key] for key in kept if key in metadata}}
    if status.get("phase") == "Succeeded":
        return slim | {"status": {"phase": "Succeeded"}}
    spec = {key: value for key, value in pod.get("spec", {}).items() if key not in ("volumes", "tolerations")}
    for group in ("containers", "initContainers"):
        if group in spec:
            spec[group] = [
                {key: value for key, value in container.items() if key in ("name", "image", "resources")}
                for container in spec[group]
            ]
    return slim | {"spec": spec, "status": status}


def slim_event(event: Object) -> Object:
    """What is needed of an event."""
    metadata = event["metadata"]
    kept = ("involvedObject", "type", "reason", "message", "count", "lastTimestamp", "eventTime", "series")
    slim = {key: event[key] for key in kept if event.get(key) is not None}
    return slim | {
        "metadata": {
            key: metadata[key] for key in ("name", "uid", "resourceVersion", "creationTimestamp") if key in metadata
        }
    }
