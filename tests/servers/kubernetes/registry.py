"""The verbs on stored objects: what the API server does before and after it stores."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.servers.kubernetes import quota, selectors, status, validation
from tests.servers.kubernetes.patching import apply_patch
from tests.servers.kubernetes.resources import EVENTS, JOBS, NAMESPACES, PODS, Resource
from tests.servers.kubernetes.storage import Storage, now

Json = dict[str, Any]
_FINAL = ("Succeeded", "Failed")


class Registry:
    """Create, get, list, update, patch and delete, with defaults, validation, quota and preconditions."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def create(self, resource: Resource, namespace: str, body: Json, query: dict[str, str] | None = None) -> Json:
        """Store a new object."""
        validation.check_type(resource, body, namespace)
        meta = {key: value for key, value in (body.get("metadata") or {}).items() if key not in _SET_BY_SERVER}
        if resource.namespaced:
            meta["namespace"] = namespace
        body = {**body, "metadata": meta}
        validation.check(resource, body)
        body = validation.with_defaults(resource, {key: value for key, value in body.items() if key != "status"})
        with self.storage.changed:
            if resource.namespaced:
                self._check_namespace(resource, namespace, meta)
            if not meta.get("name"):  # before the quota, which names the object when it refuses
                meta["name"] = meta["generateName"] + self.storage.suffix()
            if self.storage.find(resource, namespace, meta["name"]):
                raise status.already_exists(resource, meta["name"])
            quota.admit(self.storage, resource, body)
            if (query or {}).get("dryRun"):
                return {"kind": resource.kind, "apiVersion": resource.api_version, **body}
            if resource is NAMESPACES:
                body = {**body, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}
            return self.storage.create(resource, body, validation.with_selector if resource is JOBS else _as_it_is)

    def list(self, resource: Resource, namespace: str, query: dict[str, str]) -> Json:
        """One page: `limit` and `continue` as the real server has them."""
        test = selectors.match(resource.key, query)
        with self.storage.changed:
            version, after = self.storage.version, ("", "")
            if token := query.get("continue"):
                version, after = self._read_token(token)
            elif int(query.get("resourceVersion") or 0) > version:
                raise status.too_large_version(int(query["resourceVersion"]), version)
            found = [obj for obj in self.storage.list(resource, namespace) if test(obj) and _place(obj) > after]
        limit = int(query.get("limit") or 0)
        meta: Json = {"resourceVersion": str(version)}
        if limit and len(found) > limit:
            if not query.get("labelSelector") and not query.get("fieldSelector"):
                meta["remainingItemCount"] = len(found) - limit
            found = found[:limit]
            meta["continue"] = base64.urlsafe_b64encode(json.dumps([version, *_place(found[-1])]).encode()).decode()
        items = [{key: value for key, value in obj.items() if key not in ("kind", "apiVersion")} for obj in found]
        return {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": meta, "items": items}

    def update(self, resource: Resource, namespace: str, name: str, body: Json, subresource: str = "") -> Json:
        """Replace an object, or its status only."""
        validation.check_type(resource, body, namespace)
        with self.storage.changed:
            before = self.storage.get(resource, namespace, name)
            meta = body.get("metadata") or {}
            if meta.get("resourceVersion") not in (None, "", before["metadata"]["resourceVersion"]):
                raise status.modified(resource, name)
            if meta.get("uid") not in (None, before["metadata"]["uid"]):
                raise status.conflict(resource, name, f"Precondition failed: UID in precondition: {meta['uid']}, "
                                      f"UID in object meta: {before['metadata']['uid']}")  # fmt: skip
            if subresource == "status":
                return self.storage.update(resource, {**before, "status": body.get("status") or {}})
            fixed = {key: before["metadata"][key] for key in _SET_BY_SERVER if key in before["metadata"]}
            keeps = {key: value for key, value in meta.items() if key not in _SET_BY_SERVER}
            after = {**body, "metadata": {**keeps, **fixed, "name": name}}
            if "status" in before and resource is not EVENTS:
                after["status"] = before["status"]
            if resource in (JOBS, PODS):
                validation.check(resource, after)
            if resource is JOBS and after["spec"].get("template") != before["spec"].get("template"):
                raise status.invalid(resource, name, [("FieldValueInvalid", "Invalid value: field is immutable",
                                                       "spec.template")])  # fmt: skip
            return self.storage.update(resource, after)

    def patch(self, resource: Resource, namespace: str, name: str, patch: Any, content_type: str, sub: str) -> Json:
        """Merge a patch into an object."""
        with self.storage.changed:
            before = self.storage.get(resource, namespace, name)
            patched = apply_patch(before, patch, content_type)
            return self.update(resource, namespace, name, patched, sub)

    def delete(self, resource: Resource, namespace: str, name: str, options: Json) -> Json:
        """Delete an object now, or mark it as being deleted where something holds it."""
        with self.storage.changed:
            obj = self.storage.get(resource, namespace, name)
            self._check_preconditions(resource, obj, options.get("preconditions") or {})
            meta = dict(obj["metadata"])
            finalizers = [one for one in meta.get("finalizers") or () if one not in _PROPAGATION.values()]
            default = "Orphan" if resource is JOBS else "Background"  # so is batch/v1; kubectl asks for Background
            policy = options.get("propagationPolicy") or default
            if policy in _PROPAGATION:
                finalizers.append(_PROPAGATION[policy])
            meta["finalizers"] = finalizers
            grace_s = _grace_s(resource, obj, options.get("gracePeriodSeconds"))
            if meta.get("deletionTimestamp"):  # a second delete can only shorten the time
                grace_s = min(grace_s, int(meta.get("deletionGracePeriodSeconds") or 0))
            if finalizers or grace_s or resource is NAMESPACES:
                shortened = grace_s < int(meta.get("deletionGracePeriodSeconds") or 0)
                if not meta.get("deletionTimestamp") or shortened:
                    until = datetime.now(UTC) + timedelta(seconds=grace_s)
                    meta["deletionTimestamp"] = until.strftime("%Y-%m-%dT%H:%M:%SZ")
                meta["deletionGracePeriodSeconds"] = grace_s
                changed = {**obj, "metadata": meta}
                if resource is NAMESPACES:
                    changed["status"] = {"phase": "Terminating"}
                return self.storage.update(resource, changed)
            if resource is PODS and obj["spec"].get("nodeName") and options.get("gracePeriodSeconds") != 0:
                meta.update(deletionTimestamp=now(), deletionGracePeriodSeconds=0)
                obj = self.storage.mark(resource, {**obj, "metadata": meta})  # for the kubelet, which then removes it
                self.storage.remove(resource, obj)
                return obj
            self.storage.remove(resource, obj)
            return status.success(resource, name, meta["uid"])

    def delete_collection(self, resource: Resource, namespace: str, query: dict[str, str], options: Json) -> Json:
        """Delete what the selectors match; the list of it."""
        with self.storage.changed:
            found = self.list(resource, namespace, {**query, "limit": "0"})
            for item in found["items"]:
                self.delete(resource, item["metadata"].get("namespace", ""), item["metadata"]["name"], options)
            return found

    def evict(self, namespace: str, name: str, body: Json) -> Json:
        """The eviction subresource of a pod: a condition that says so, then a graceful delete."""
        with self.storage.changed:
            pod = self.storage.get(PODS, namespace, name)
            options = body.get("deleteOptions") or {}
            self._check_preconditions(PODS, pod, options.get("preconditions") or {})
            if pod["status"].get("phase") not in _FINAL:
                disrupt(self.storage, pod, "EvictionByEvictionAPI", "Eviction API: evicting")
            self.delete(PODS, namespace, name, options)
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}

    def _check_namespace(self, resource: Resource, namespace: str, meta: Json) -> None:
        found = self.storage.get(NAMESPACES, "", namespace)
        if found["metadata"].get("deletionTimestamp"):
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            error = status.forbidden(resource, meta.get("name", ""), why)
            error.status["details"]["causes"] = [{"reason": "NamespaceTerminating", "field": "metadata.namespace"}]
            raise error

    def _check_preconditions(self, resource: Resource, obj: Json, wanted: Json) -> None:
        for field, shown in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
            asked, there = wanted.get(field), obj["metadata"][field]
            if asked and asked != there:
                became = "deleted and then recreated" if field == "uid" else "modified"
                why = (
                    f"the {shown} in the precondition ({asked}) does not match the {shown} in record ({there}). "
                    f"The object might have been {became}"
                )
                raise status.conflict(resource, obj["metadata"]["name"], why, plural=False)

    def _read_token(self, token: str) -> tuple[int, tuple[str, str]]:
        try:
            version, namespace, name = json.loads(base64.urlsafe_b64decode(token))
        except ValueError as error:
            raise status.bad_request("invalid continue token: continue key is not valid") from error
        if version < self.storage.oldest:
            raise status.expired_continue()
        return version, (namespace, name)


def disrupt(storage: Storage, pod: Json, reason: str, message: str) -> Json:
    """Put the condition DisruptionTarget on a pod."""
    kept = [one for one in pod["status"].get("conditions") or () if one["type"] != "DisruptionTarget"]
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
                 "lastProbeTime": None, "lastTransitionTime": now()}  # fmt: skip
    return storage.update(PODS, {**pod, "status": {**pod["status"], "conditions": [*kept, condition]}})


_PROPAGATION = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}
_SET_BY_SERVER = ("uid", "creationTimestamp", "generation", "resourceVersion", "deletionTimestamp",
                  "deletionGracePeriodSeconds", "managedFields", "selfLink")  # fmt: skip


def _as_it_is(obj: Json) -> Json:
    return obj


def _place(obj: Json) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _grace_s(resource: Resource, obj: Json, asked: int | None) -> int:
    if resource is not PODS:
        return 0
    if not obj["spec"].get("nodeName") or obj["status"].get("phase") in _FINAL:
        return 0
    return int(obj["spec"].get("terminationGracePeriodSeconds", 30) if asked is None else asked)
