"""What the server knows: objects, one resource version over all kinds, and the history that watches read.

Objects are never changed in place: a write puts a new object, whose untouched parts it shares with the old one.
Readers therefore need no copies, and a watch that lags behind sees each version as it was.
"""

from __future__ import annotations

import bisect
import json
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.servers.kubernetes.resources import BY_KEY, Resource
from tests.servers.kubernetes.status import already_exists, expired, not_found

Json = dict[str, Any]
_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # those of the real server


def now() -> str:
    """The time as Kubernetes writes it, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(timestamp: str) -> float:
    """Unix time of a timestamp."""
    return datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()


@dataclass(slots=True)
class Change:
    """One entry of the history."""

    version: int
    type: str  # ADDED, MODIFIED, DELETED
    resource: str
    namespace: str
    object: Json
    previous: Json | None
    _lines: dict[str, bytes] = field(default_factory=dict)

    def line(self, event_type: str) -> bytes:
        """The event as a watch sends it; encoded once for all watches."""
        if event_type not in self._lines:
            self._lines[event_type] = event_line(event_type, self.object)
        return self._lines[event_type]


def event_line(event_type: str, obj: Json) -> bytes:
    """One line of a watch."""
    return json.dumps({"type": event_type, "object": obj}, separators=(",", ":")).encode() + b"\n"


class Storage:
    """Every write takes the lock, gets the next resource version and wakes whoever waits on `changed`."""

    def __init__(self, seed: int = 7) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.listeners: list[Callable[[Change], None]] = []  # called under the lock
        self._objects: dict[str, dict[tuple[str, str], Json]] = {key: {} for key in BY_KEY}
        self._owned: dict[str, dict[tuple[str, str, str], None]] = {}  # uid of the owner: (resource, namespace, name)
        self._history: list[Change] = []
        self._version = 1000
        self._oldest = 1000  # watches can start at this version or later
        self._random = random.Random(seed)

    @property
    def version(self) -> int:
        return self._version

    @property
    def oldest(self) -> int:
        """Watches and pages can start at this version or later."""
        return self._oldest

    def get(self, resource: Resource, namespace: str, name: str) -> Json:
        """The object; NotFound where there is none."""
        found = self.find(resource, namespace, name)
        if found is None:
            raise not_found(resource, name)
        return found

    def find(self, resource: Resource, namespace: str, name: str) -> Json | None:
        return self._objects[resource.key].get((namespace if resource.namespaced else "", name))

    def list(self, resource: Resource, namespace: str = "") -> list[Json]:
        """In the order of their names; of all namespaces if none is given."""
        with self.changed:
            found = self._objects[resource.key].items()
            return [obj for (where, _), obj in sorted(found, key=_first) if not namespace or where == namespace]

    def owned_by(self, uid: str, resource: Resource | None = None) -> list[Json]:
        """The objects that name this one as an owner."""
        with self.changed:
            keys = list(self._owned.get(uid, ()))
            return [
                self._objects[key][namespace, name]
                for key, namespace, name in keys
                if resource is None or key == resource.key
            ]

    def create(self, resource: Resource, obj: Json, complete: Callable[[Json], Json] = lambda obj: obj) -> Json:
        """Store a new object under a new uid; AlreadyExists where its name is taken. `complete` sees the uid."""
        with self.changed:
            meta = dict(obj["metadata"])
            if not meta.get("name"):
                meta["name"] = meta["generateName"] + self.suffix()
            key = self._key(resource, meta)
            if key in self._objects[resource.key]:
                raise already_exists(resource, meta["name"])
            meta.update(uid=str(uuid.UUID(int=self._random.getrandbits(128), version=4)), creationTimestamp=now())
            if resource.kind in ("Job", "Pod"):
                meta["generation"] = 1
            return self._put(resource, complete({**obj, "metadata": meta}), "ADDED", None)

    def update(self, resource: Resource, obj: Json) -> Json:
        """Replace an object; one that is being deleted goes when nothing holds it any more."""
        with self.changed:
            key = self._key(resource, obj["metadata"])
            before = self._objects[resource.key].get(key)
            if before is None:
                raise not_found(resource, obj["metadata"]["name"])
            if _held(obj):
                if _without_version(obj) == _without_version(before):
                    return before
                if "generation" in before["metadata"] and obj.get("spec") != before.get("spec"):
                    meta = {**obj["metadata"], "generation": before["metadata"]["generation"] + 1}
                    obj = {**obj, "metadata": meta}
                return self._put(resource, obj, "MODIFIED", before)
            held_by = {"finalizers": before["metadata"].get("finalizers") or []}
            return self.remove(resource, {**obj, "metadata": {**obj["metadata"], **held_by}})

    def mark(self, resource: Resource, obj: Json) -> Json:
        """Store an object whether anything holds it or not."""
        with self.changed:
            return self._put(resource, obj, "MODIFIED", self.get(resource, *self._key(resource, obj["metadata"])))

    def remove(self, resource: Resource, obj: Json) -> Json:
        """Take an object away; its last state, at the version of its removal."""
        with self.changed:
            key = self._key(resource, obj["metadata"])
            before = self._objects[resource.key].pop(key)
            self._unlink(resource, before)
            return self._record(resource, obj, "DELETED", before)

    def changes_after(self, version: int) -> list[Change]:
        """The history after a version; Expired where it has been compacted away."""
        with self.changed:
            if version < self._oldest:
                raise expired(version, self._oldest)
            first = bisect.bisect_right(self._history, version, key=lambda change: change.version)
            return self._history[first:]

    def compact(self) -> None:
        """Forget the history."""
        with self.changed:
            self._version += 1
            self._oldest = self._version
            self._history.clear()
            self.changed.notify_all()

    def suffix(self) -> str:
        """Five letters for a generated name."""
        return "".join(self._random.choices(_SUFFIX_LETTERS, k=5))

    def _put(self, resource: Resource, obj: Json, change: str, before: Json | None) -> Json:
        stored = self._record(resource, obj, change, before)
        if before is not None:
            self._unlink(resource, before)
        key = self._key(resource, stored["metadata"])
        self._objects[resource.key][key] = stored
        for uid in _owner_uids(stored):
            self._owned.setdefault(uid, {})[resource.key, *key] = None
        return stored

    def _record(self, resource: Resource, obj: Json, change: str, before: Json | None) -> Json:
        self._version += 1
        head = {"kind": resource.kind, "apiVersion": resource.api_version}
        meta = {key: value for key, value in obj["metadata"].items() if value != []}  # empty lists are left out
        stored = {**head, **obj, "metadata": {**meta, "resourceVersion": str(self._version)}}
        entry = Change(self._version, change, resource.key, stored["metadata"].get("namespace", ""), stored, before)
        self._history.append(entry)
        for listener in self.listeners:
            listener(entry)
        self.changed.notify_all()
        return stored

    def _unlink(self, resource: Resource, obj: Json) -> None:
        for uid in _owner_uids(obj):
            owned = self._owned.get(uid, {})
            owned.pop((resource.key, *self._key(resource, obj["metadata"])), None)
            if not owned:
                self._owned.pop(uid, None)

    @staticmethod
    def _key(resource: Resource, meta: Json) -> tuple[str, str]:
        return (meta["namespace"] if resource.namespaced else "", meta["name"])


def _first(item: tuple[Any, Any]) -> Any:
    return item[0]


def _owner_uids(obj: Json) -> Iterator[str]:
    return (owner["uid"] for owner in obj["metadata"].get("ownerReferences") or ())


def _held(obj: Json) -> bool:
    """Whether an object stays: nobody deleted it, a finalizer holds it, or its grace period runs."""
    meta = obj["metadata"]
    return not meta.get("deletionTimestamp") or bool(
        meta.get("finalizers") or meta.get("deletionGracePeriodSeconds") or (obj.get("spec") or {}).get("finalizers")
    )


def _without_version(obj: Json) -> Json:
    return {**obj, "metadata": {**obj["metadata"], "resourceVersion": ""}}
