"""The Job controller's hands: how many pods a Job should have, and their creation and removal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tests.servers.kubernetes import job_failures as rules
from tests.servers.kubernetes.events import Recorder
from tests.servers.kubernetes.registry import Registry
from tests.servers.kubernetes.resources import PODS
from tests.servers.kubernetes.status import ApiError
from tests.servers.kubernetes.storage import Storage, seconds

if TYPE_CHECKING:
    from tests.servers.kubernetes.jobs import View

Json = dict[str, Any]
LONGEST_BACKOFF_S = 600.0


class JobPods:
    """Creates and deletes the pods of Jobs, through the same admission as any client."""

    def __init__(self, storage: Storage, registry: Registry, recorder: Recorder) -> None:
        self.retry_backoff_s = 0.0  # 10 s in a real cluster; doubled with each failure
        self.create_retry_s = 0.05  # 1 s in a real cluster; doubled with each refusal, up to 2 s (60 s)
        self._storage, self._registry, self._recorder = storage, registry, recorder
        self._refusals: dict[str, int] = {}  # uid of the Job: how often in a row creating a pod was refused

    def manage(self, view: View) -> float | None:
        """Create or delete pods and put them right in the view; seconds until another try is due, or None."""
        spec, n_active = view.spec, len(view.active)
        if spec["suspend"]:
            self._remove(view, n_active)
            return None
        if spec.get("completions") is None:
            wanted = n_active if view.succeeded else spec["parallelism"]
        else:
            wanted = max(0, min(spec["completions"] - view.succeeded, spec["parallelism"]))
        if n_active > wanted:
            self._remove(view, n_active - wanted)
            return None
        replaces_failed_only = spec["podReplacementPolicy"] == "Failed"
        missing = wanted - n_active - (view.terminating if replaces_failed_only else 0)
        if missing <= 0:
            return None
        indexes: list[int | None] = [None] * missing
        if view.is_indexed:
            indexes = self._free_indexes(view, missing, replaces_failed_only)
        ready, wait_s = self._ready_to_retry(view, indexes)
        for index in ready:
            refused = self._create(view, index)
            if refused is not None:
                return refused
        return wait_s

    def delete(self, job: Json, pods: list[Json]) -> int:
        """Delete pods with their grace period; how many there were."""
        for pod in pods:
            meta = pod["metadata"]
            self._registry.delete(PODS, meta["namespace"], meta["name"], {"preconditions": {"uid": meta["uid"]}})
            self._recorder.say(job, "Normal", "SuccessfulDelete", f"Deleted pod: {meta['name']}", "job-controller")
        return len(pods)

    def let_go(self, pod: Json) -> None:
        """Take the tracking finalizer off a pod that is counted."""
        meta = pod["metadata"]
        there = self._storage.find(PODS, meta["namespace"], meta["name"])
        if there is not None and there["metadata"]["uid"] == meta["uid"]:
            left = [one for one in there["metadata"].get("finalizers") or () if one != rules.TRACKED]
            self._storage.update(PODS, {**there, "metadata": {**there["metadata"], "finalizers": left}})

    def _remove(self, view: View, n_pods: int) -> None:
        """Those that have done least go first."""
        order = sorted(view.active, key=lambda pod: (pod["status"].get("phase") == "Running",
                                                     -int(pod["metadata"]["resourceVersion"])))  # fmt: skip
        for pod in order[:n_pods]:
            self.let_go(pod)  # what the controller itself takes away is no failure
        view.terminating += self.delete(view.job, order[:n_pods])
        view.active = order[n_pods:]

    def _free_indexes(self, view: View, most: int, replaces_failed_only: bool) -> list[int | None]:
        taken = {rules.index_of(pod) for pod in view.active} | view.succeeded_indexes | (view.failed_indexes or set())
        if replaces_failed_only:
            taken |= {rules.index_of(pod) for pod in view.pods if rules.is_terminating(pod)}
        return [index for index in range(view.spec["completions"]) if index not in taken][:most]

    def _ready_to_retry(self, view: View, indexes: list[int | None]) -> tuple[list[int | None], float | None]:
        """The indexes whose back-off is over, and when the next one's will be."""
        if not self.retry_backoff_s:
            return indexes, None
        waits = {index: self._wait_s(view, index) for index in indexes}
        later = [wait_s for wait_s in waits.values() if wait_s > 0]
        return [index for index in indexes if waits[index] <= 0], min(later, default=None)

    def _wait_s(self, view: View, index: int | None) -> float:
        if view.failed_indexes is not None:
            last = view.to_replace.get(index or 0)
            n_failures, failed = (sum(rules.failures_after(view.job, last)), [last]) if last else (0, [])
        else:
            uid, n_failures = view.job["metadata"]["uid"], view.failed
            failed = [pod for pod in self._storage.owned_by(uid, PODS) if pod["status"].get("phase") == "Failed"]
        if not n_failures or not failed:
            return 0.0
        backoff_s = min(self.retry_backoff_s * 2.0 ** (n_failures - 1), LONGEST_BACKOFF_S)
        return max(_ended_s(pod) for pod in failed if pod) + backoff_s - time.time()

    def _create(self, view: View, index: int | None) -> float | None:
        """Create one pod; seconds until the next try where it was refused."""
        job, uid = view.job, view.job["metadata"]["uid"]
        pod = pod_of(job, index, view.to_replace.get(index) if index is not None else None)
        try:
            created = self._registry.create(PODS, job["metadata"]["namespace"], pod)
        except ApiError as error:
            self._recorder.say(job, "Warning", "FailedCreate", f"Error creating: {error}", "job-controller")
            self._refusals[uid] = self._refusals.get(uid, 0) + 1
            return min(2.0, self.create_retry_s * 2.0 ** (self._refusals[uid] - 1))
        self._refusals.pop(uid, None)
        view.active.append(created)
        if index is not None:
            view.to_replace.pop(index, None)
        name = created["metadata"]["name"]
        self._recorder.say(job, "Normal", "SuccessfulCreate", f"Created pod: {name}", "job-controller")
        return None


def pod_of(job: Json, index: int | None, replaces: Json | None) -> Json:
    """A new pod of a Job."""
    meta, template = job["metadata"], job["spec"]["template"]
    labels = dict(template["metadata"].get("labels") or {})
    annotations = dict(template["metadata"].get("annotations") or {})
    spec = dict(template["spec"])
    prefix = meta["name"]
    if index is not None:
        prefix = f"{prefix}-{index}"
        labels[rules.INDEX] = annotations[rules.INDEX] = str(index)
        spec["hostname"] = f"{meta['name']}-{index}"
        field = {"fieldRef": {"apiVersion": "v1", "fieldPath": f"metadata.labels['{rules.INDEX}']"}}
        known = {"name": "JOB_COMPLETION_INDEX", "valueFrom": field}
        spec["containers"] = [_with_env(container, known) for container in spec["containers"]]
        if job["spec"].get("backoffLimitPerIndex") is not None:
            counted, ignored = rules.failures_after(job, replaces)
            annotations[rules.FAILURES] = str(counted)
            if ignored:
                annotations[rules.IGNORED_FAILURES] = str(ignored)
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"],
             "controller": True, "blockOwnerDeletion": True}  # fmt: skip
    pod_meta = {"generateName": f"{prefix[:57]}-", "labels": labels, "finalizers": [rules.TRACKED],
                "ownerReferences": [owner], **({"annotations": annotations} if annotations else {})}  # fmt: skip
    return {"apiVersion": "v1", "kind": "Pod", "metadata": pod_meta, "spec": spec}


def _with_env(container: Json, known: Json) -> Json:
    env = list(container.get("env") or ())
    return container if any(one["name"] == known["name"] for one in env) else {**container, "env": [*env, known]}


def _ended_s(pod: Json) -> float:
    for container in pod["status"].get("containerStatuses") or ():
        if ended := (container.get("state") or {}).get("terminated"):
            return seconds(ended["finishedAt"])
    return time.time()
