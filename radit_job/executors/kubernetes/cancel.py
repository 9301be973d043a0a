"""The end of a run in the cluster: its controller first, so that nothing new starts, then the stages that run."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Collection, Iterable

from radit_job.errors import ServiceError
from radit_job.executors.kubernetes.client import KubernetesClient, Object
from radit_job.executors.kubernetes.manifest import APPLICATION, COMPONENT_LABEL, MANAGED_BY_LABEL, RUN_LABEL
from radit_job.executors.kubernetes.view import is_over
from radit_job.executors.kubernetes.watch import Change, Reflector

PATIENCE_S = 120.0  # pods get 30 s to end by themselves


def cancel(
    client: KubernetesClient,
    run: str,
    adopted: Collection[str] = (),
    *,
    controllers: Collection[str] = (),
    patience_s: float = PATIENCE_S,
) -> list[str]:
    """Delete a run's Jobs that are not over, and wait until they and their pods are gone; the names of the Jobs.

    `controllers` names Jobs that go first: those of k8s/ do not bear the run's name. `adopted` names Jobs that it may
    have taken over from another run. A Job that another run took over from this one is deleted, too: they compute the
    same. ServiceError where they are not gone after `patience_s`.
    """
    deleted: list[str] = []
    for name in controllers:
        job = client.get("jobs", name)
        deleted += _delete_all(client, [job] if job else [], patience_s, field_selector=f"metadata.name={name}")
    ours = f"{MANAGED_BY_LABEL}={APPLICATION},{COMPONENT_LABEL}"
    selector = f"{ours}=controller,{RUN_LABEL}={run}"
    deleted += _delete_all(client, client.list("jobs", selector)[0], patience_s, selector=selector)

    def is_of_the_run(job: Object) -> bool:
        metadata = job["metadata"]
        return metadata["labels"].get(RUN_LABEL) == run or metadata["name"] in adopted

    selector = f"{ours}=stage"
    stages = [job for job in client.list("jobs", selector)[0] if is_of_the_run(job)]
    return deleted + _delete_all(client, stages, patience_s, selector=selector)


def _delete_all(client: KubernetesClient, found: Iterable[Object], patience_s: float, **filters: str) -> list[str]:
    """Delete those that are not over, in the foreground: a Job is gone when its pods are. `filters` find them again."""
    jobs = [job for job in found if not is_over(job)]
    for job in jobs:
        client.delete("jobs", job["metadata"]["name"], uid=job["metadata"]["uid"])
    if jobs:
        _wait_for_end(client, {job["metadata"]["uid"] for job in jobs}, patience_s, **filters)
    return [job["metadata"]["name"] for job in jobs]


def _wait_for_end(client: KubernetesClient, uids: set[str], patience_s: float, **filters: str) -> None:
    changes: queue.SimpleQueue[Change] = queue.SimpleQueue()
    reflector = Reflector(client, "jobs", changes.put, keep=_only_metadata, **filters).start()
    present: dict[str, str] = {}  # uid -> name
    has_listed, until_s = False, time.monotonic() + patience_s
    try:
        while not has_listed or uids & present.keys():
            change = _next(changes, until_s, lambda: sorted(present[uid] for uid in uids & present.keys()))
            if change.kind == "BROKEN":
                raise change.item
            if change.kind == "LISTED":
                has_listed = True
            elif change.kind == "DELETED":
                present.pop(change.item["metadata"]["uid"], None)
            else:
                present[change.item["metadata"]["uid"]] = change.item["metadata"]["name"]
    finally:
        reflector.stop()


def _next(changes: queue.SimpleQueue[Change], until_s: float, left: Callable[[], list[str]]) -> Change:
    try:
        return changes.get(timeout=max(0.0, until_s - time.monotonic()))
    except queue.Empty:
        todo = "Their pods do not end: is their node lost? `kubectl describe pod` says."
        raise ServiceError(f"not gone yet: {', '.join(left()) or 'the Jobs'}", todo=todo) from None


def _only_metadata(job: Object) -> Object:
    return {"metadata": job["metadata"]}
