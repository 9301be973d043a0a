"""A list that is kept up to date by a watch, in a thread: what client-go calls a reflector. It never polls."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from radit_job.executors.kubernetes.answers import Gone, Stopped
from radit_job.executors.kubernetes.client import KubernetesClient, Object
from radit_job.executors.kubernetes.transport import Stopper

SHORT_S = 1.0  # a watch that ends sooner is a sign of trouble, if it happens again
MAX_PAUSE_S = 5.0


class Change(NamedTuple):
    """Something that happened to the objects of one resource."""

    resource: str
    kind: Literal["ADDED", "MODIFIED", "DELETED", "LISTED", "BROKEN"]  # LISTED: all that there was has been told
    item: Any = None  # the object; of BROKEN the exception that ended the reflector


class Reflector:
    """Tells every change of the objects that match, also of those that changed or went while it was not looking."""

    def __init__(
        self,
        client: KubernetesClient,
        resource: str,
        tell: Callable[[Change], None],
        *,
        selector: str = "",
        field_selector: str = "",
        keep: Callable[[Object], Object] = lambda item: item,
    ) -> None:
        self._client = client
        self._resource = resource
        self._tell = tell
        self._selector = selector
        self._field_selector = field_selector
        self._keep = keep
        self._known: dict[str, Object] = {}
        self._stopper = Stopper()
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"watch-{resource}")

    def start(self) -> Reflector:
        """Begin; returns itself."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End; the connection is cut at once."""
        self._stopper.stop()

    def _run(self) -> None:
        try:
            self._reflect()
        except Stopped:
            pass
        except Exception as error:  # whoever reads the changes must hear of it, or it would wait for ever
            self._tell(Change(self._resource, "BROKEN", error))

    def _reflect(self) -> None:
        version = self._list()
        n_short = 0
        while True:
            began_s = time.monotonic()
            try:
                version = self._watch(version)
                is_gone = False
            except Gone:
                is_gone = True
            n_short = n_short + 1 if time.monotonic() - began_s < SHORT_S else 0
            if n_short > 1:
                self._stopper.wait(min(MAX_PAUSE_S, 0.1 * 2**n_short) * random.uniform(0.7, 1.3))
            if is_gone:
                version = self._list()

    def _watch(self, version: str) -> str:
        """Follow one connection to its end; returns the version to go on from."""
        selectors = {"field_selector": self._field_selector, "stopper": self._stopper}
        for kind, item in self._client.watch(self._resource, self._selector, version, **selectors):  # type: ignore[arg-type]
            version = str(item["metadata"]["resourceVersion"])
            if kind == "DELETED":
                self._forget(self._keep(item))
            elif kind in ("ADDED", "MODIFIED"):
                self._learn(self._keep(item))
        return version

    def _list(self) -> str:
        """Tell what is there, and what is there no more."""
        items, version = self._client.list(
            self._resource,
            self._selector,
            field_selector=self._field_selector,
            keep=self._keep,
            stopper=self._stopper,
        )
        present = {item["metadata"]["name"] for item in items}
        for name in [name for name in self._known if name not in present]:
            self._forget(self._known[name])
        for item in items:
            self._learn(item)
        self._tell(Change(self._resource, "LISTED"))
        return version

    def _learn(self, item: Object) -> None:
        metadata = item["metadata"]
        known = self._known.get(metadata["name"])
        if known and known["metadata"]["uid"] != metadata["uid"]:
            self._forget(known)  # deleted and made anew while nobody looked
            known = None
        self._known[metadata["name"]] = item
        if known is None:
            self._tell(Change(self._resource, "ADDED", item))
        elif known["metadata"]["resourceVersion"] != metadata["resourceVersion"]:
            self._tell(Change(self._resource, "MODIFIED", item))

    def _forget(self, item: Object) -> None:
        self._known.pop(item["metadata"]["name"], None)
        self._tell(Change(self._resource, "DELETED", item))
