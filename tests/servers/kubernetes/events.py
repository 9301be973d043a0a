"""Events that the controllers write about objects."""

from __future__ import annotations

from typing import Any

from tests.servers.kubernetes.resources import EVENTS
from tests.servers.kubernetes.storage import Storage, now

Json = dict[str, Any]


class Recorder:
    """Writes Events; one that says the same again is counted on the first one, as the real recorder does."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._said: dict[tuple[str, str, str], str] = {}  # (uid, reason, message): the event's name

    def say(self, obj: Json, kind: str, reason: str, message: str, component: str) -> None:
        """Write an event of a kind, Normal or Warning, about an object."""
        meta = obj["metadata"]
        namespace = meta.get("namespace", "default")
        key = (meta["uid"], reason, message)
        with self._storage.changed:
            before = self._storage.find(EVENTS, namespace, self._said.get(key, ""))
            if before is not None:
                self._storage.update(EVENTS, {**before, "count": before["count"] + 1, "lastTimestamp": now()})
                return
            event = self._storage.create(
                EVENTS,
                {
                    "metadata": {"namespace": namespace, "generateName": f"{meta['name']}."},
                    "involvedObject": {
                        "kind": obj["kind"],
                        "namespace": namespace,
                        "name": meta["name"],
                        "uid": meta["uid"],
                        "apiVersion": obj["apiVersion"],
                        "resourceVersion": meta["resourceVersion"],
                    },
                    "reason": reason,
                    "message": message,
                    "source": {} if component == "default-scheduler" else {"component": component},
                    "reportingComponent": component,
                    "reportingInstance": "",
                    "type": kind,
                    "firstTimestamp": now(),
                    "lastTimestamp": now(),
                    "eventTime": None,
                    "count": 1,
                },
            )
            self._said[key] = event["metadata"]["name"]
