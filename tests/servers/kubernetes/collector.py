"""What deletes objects by itself: the garbage collector, the end of a namespace, and ttlSecondsAfterFinished."""

from __future__ import annotations

import time
from typing import Any

from tests.servers.kubernetes.job_failures import TRACKED
from tests.servers.kubernetes.jobs import finished_condition
from tests.servers.kubernetes.registry import Registry
from tests.servers.kubernetes.resources import BY_KEY, JOBS, NAMESPACES, RESOURCES, Resource
from tests.servers.kubernetes.status import ApiError
from tests.servers.kubernetes.storage import Change, Storage, seconds
from tests.servers.kubernetes.work_queue import WorkQueue

Json = dict[str, Any]
_BY_KIND = {(one.api_version, one.kind): one for one in RESOURCES.values()}


class Collector:
    """Follows owner references, as the real one: in the background, in the foreground, or leaving orphans."""

    def __init__(self, storage: Storage, registry: Registry) -> None:
        self.queue = WorkQueue()
        self.time_scale = 1.0  # how long a second of ttlSecondsAfterFinished takes
        self._storage, self._registry = storage, registry
        storage.listeners.append(self._notice)

    def step(self) -> bool:
        """Look at what is due; whether there was anything."""
        due = self.queue.pop_due()
        for task, key in due:
            if task == "gone":
                self._collect(key)
            elif task == "namespace":
                self._empty(key)
            else:
                resource_key, namespace, name = key.split("|")
                obj = self._storage.find(BY_KEY[resource_key], namespace, name)
                if obj is not None and task == "owner":
                    self._release(BY_KEY[resource_key], obj)
                elif obj is not None:
                    self._expire(obj)
        return bool(due)

    def _notice(self, change: Change) -> None:
        meta, resource = change.object["metadata"], BY_KEY[change.resource]
        if change.type == "DELETED":
            self.queue.add(("gone", meta["uid"]))
            if self._storage.find(NAMESPACES, "", change.namespace) is not None:
                self.queue.add(("namespace", change.namespace))
        elif meta.get("deletionTimestamp"):
            self.queue.add(("namespace", meta["name"]) if resource is NAMESPACES else ("owner", _place(resource, meta)))
        for owner in meta.get("ownerReferences") or ():
            if owns := _BY_KIND.get((owner["apiVersion"], owner["kind"])):
                self.queue.add(("owner", _place(owns, {"namespace": change.namespace, "name": owner["name"]})))
            if change.type == "ADDED":
                self.queue.add(("gone", owner["uid"]))
        if resource is JOBS and change.type != "DELETED" and finished_condition(change.object):
            self.queue.add(("ttl", _place(JOBS, meta)))

    def _expire(self, job: Json) -> None:
        ttl_s, ended = job["spec"].get("ttlSecondsAfterFinished"), finished_condition(job)
        if ttl_s is None or ended is None or job["metadata"].get("deletionTimestamp"):
            return
        left_s = seconds(ended["lastTransitionTime"]) + ttl_s * self.time_scale - time.time()
        if left_s > 0:
            self.queue.add(("ttl", _place(JOBS, job["metadata"])), left_s)
        else:
            options = {"propagationPolicy": "Foreground", "preconditions": {"uid": job["metadata"]["uid"]}}
            self._registry.delete(JOBS, job["metadata"]["namespace"], job["metadata"]["name"], options)

    def _collect(self, uid: str) -> None:
        """Delete what belonged to an object that is gone."""
        for obj in self._storage.owned_by(uid):
            owners = obj["metadata"]["ownerReferences"]
            if any(self._is_there(owner, obj) for owner in owners if owner["uid"] == uid):
                continue
            resource = BY_KEY[_key(obj)]
            left = [owner for owner in owners if owner["uid"] != uid]
            finalizers = [one for one in obj["metadata"].get("finalizers") or () if one != TRACKED]
            meta = {**obj["metadata"], "finalizers": finalizers}
            if any(self._is_there(owner, obj) for owner in left):
                meta["ownerReferences"] = left
            obj = self._storage.update(resource, {**obj, "metadata": meta})
            if "ownerReferences" in meta and meta["ownerReferences"] is not left:
                self._delete(resource, obj)

    def _release(self, resource: Resource, owner: Json) -> None:
        """Let an owner go that waits for its dependents, or leave them behind."""
        finalizers = owner["metadata"].get("finalizers") or []
        if not owner["metadata"].get("deletionTimestamp"):
            return
        dependents = self._storage.owned_by(owner["metadata"]["uid"])
        if "orphan" in finalizers:
            for obj in dependents:
                left = [one for one in obj["metadata"]["ownerReferences"] if one["uid"] != owner["metadata"]["uid"]]
                kept = [one for one in obj["metadata"].get("finalizers") or () if one != TRACKED]
                meta = {**obj["metadata"], "ownerReferences": left, "finalizers": kept}
                self._storage.update(BY_KEY[_key(obj)], {**obj, "metadata": meta})
            self._drop(resource, owner, "orphan")
        elif "foregroundDeletion" in finalizers:
            for obj in dependents:
                if not obj["metadata"].get("deletionTimestamp"):
                    self._delete(BY_KEY[_key(obj)], obj)
            if not self._storage.owned_by(owner["metadata"]["uid"]):
                self._drop(resource, owner, "foregroundDeletion")

    def _empty(self, namespace: str) -> None:
        """Delete what is in a namespace that is being deleted, then the namespace."""
        found = self._storage.find(NAMESPACES, "", namespace)
        if found is None or not found["metadata"].get("deletionTimestamp"):
            return
        for resource in BY_KEY.values():
            if resource.namespaced:
                for obj in self._storage.list(resource, namespace):
                    if not obj["metadata"].get("deletionTimestamp"):
                        self._delete(resource, obj)
        if not any(self._storage.list(resource, namespace) for resource in BY_KEY.values() if resource.namespaced):
            self._storage.update(NAMESPACES, {**found, "spec": {"finalizers": []}})

    def _drop(self, resource: Resource, obj: Json, finalizer: str) -> None:
        there = self._storage.find(resource, obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        if there is not None and there["metadata"]["uid"] == obj["metadata"]["uid"]:
            left = [one for one in there["metadata"].get("finalizers") or () if one != finalizer]
            self._storage.update(resource, {**there, "metadata": {**there["metadata"], "finalizers": left}})

    def _delete(self, resource: Resource, obj: Json) -> None:
        try:
            self._registry.delete(resource, obj["metadata"].get("namespace", ""), obj["metadata"]["name"], {})
        except ApiError as error:
            if error.code != 404:
                raise

    def _is_there(self, owner: Json, dependent: Json) -> bool:
        resource = _BY_KIND.get((owner["apiVersion"], owner["kind"]))
        if resource is None:
            return True  # a kind that is not served here: leave it alone
        found = self._storage.find(resource, dependent["metadata"].get("namespace", ""), owner["name"])
        return found is not None and found["metadata"]["uid"] == owner["uid"]


def _place(resource: Resource, meta: Json) -> str:
    return f"{resource.key}|{meta.get('namespace', '')}|{meta['name']}"


def _key(obj: Json) -> str:
    return _BY_KIND[obj["apiVersion"], obj["kind"]].key
