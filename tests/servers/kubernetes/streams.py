"""Answers that go on: watches and followed logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.servers.kubernetes import selectors, status
from tests.servers.kubernetes.containers import Container
from tests.servers.kubernetes.resources import Request
from tests.servers.kubernetes.storage import Change, Storage, event_line

Json = dict[str, Any]
Test = Callable[[Json], bool]
HEARTBEAT_S = 0.5  # how often a silent stream looks whether its reader is still there
LONGEST_WATCH_S = 1800.0


class Watch:
    """The events of one kind of object, from a version on."""

    def __init__(self, storage: Storage, request: Request, bookmark_every_s: float) -> None:
        self._storage, self._request = storage, request
        self._matches = selectors.match(request.resource.key, request.query)
        self._until = time.monotonic() + float(request.query.get("timeoutSeconds") or LONGEST_WATCH_S)
        self._bookmarks = request.query.get("allowWatchBookmarks", "").lower() in ("1", "true")
        self._bookmark_every_s = bookmark_every_s
        try:
            asked = int(request.query.get("resourceVersion") or 0)
        except ValueError as error:
            raise status.bad_request("Invalid value: resourceVersion: must be a number") from error
        self._start = asked

    def lines(self, is_wanted: Callable[[], bool]) -> Iterator[bytes]:
        """Encoded events, empty between two looks whether it is still wanted, until the timeout."""
        version = self._start
        if not version:
            with self._storage.changed:
                version = self._storage.version
                there = self._storage.list(self._request.resource, self._request.namespace)
            yield b"".join(event_line("ADDED", obj) for obj in there if self._matches(obj))
        bookmark_at = time.monotonic() + self._bookmark_every_s
        while is_wanted():
            try:
                changes = self._wait(version)
            except status.ApiError as error:
                yield event_line("ERROR", error.status)
                return
            if changes:
                version = changes[-1].version
            yield b"".join(line for change in changes if (line := self._line(change)))
            is_over = time.monotonic() >= self._until
            if self._bookmarks and (is_over or time.monotonic() >= bookmark_at):
                bookmark_at = time.monotonic() + self._bookmark_every_s
                yield self._bookmark(version)
            if is_over:
                return

    def _wait(self, version: int) -> list[Change]:
        with self._storage.changed:
            changes = self._storage.changes_after(version)
            if not changes:
                left_s = self._until - time.monotonic()
                self._storage.changed.wait(max(0.0, min(HEARTBEAT_S, left_s, self._bookmark_every_s)))
                changes = self._storage.changes_after(version)
            return changes

    def _line(self, change: Change) -> bytes:
        """A change as this watch sees it: an object that starts to match is ADDED, one that stops is DELETED."""
        wanted = self._request.namespace
        if change.resource != self._request.resource.key:
            return b""
        if wanted and wanted not in (
            change.namespace,
            change.object["metadata"]["name"] if not change.namespace else "",
        ):
            return b""
        matches = self._matches(change.object)
        matched = change.previous is not None and self._matches(change.previous)
        if change.type == "DELETED":
            return change.line("DELETED") if matched else b""
        if matches:
            return change.line("MODIFIED" if matched else "ADDED")
        return change.line("DELETED") if matched else b""

    def _bookmark(self, version: int) -> bytes:
        resource = self._request.resource
        meta = {"resourceVersion": str(version), "creationTimestamp": None}
        return event_line("BOOKMARK", {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": meta})


def log_lines(
    pod: Json, container: Container | None, query: dict[str, str], is_wanted: Callable[[], bool]
) -> Iterator[bytes]:
    """A container's output; BadRequest where there is none to come."""
    name = query.get("container") or pod["spec"]["containers"][0]["name"]
    if name not in [one["name"] for one in pod["spec"]["containers"]]:
        raise status.bad_request(f"container {name} is not valid for pod {pod['metadata']['name']}")
    if query.get("previous") in ("true", "1"):
        raise status.bad_request(f'previous terminated container "{name}" in pod "{pod["metadata"]["name"]}" not found')
    if container is None:
        raise status.bad_request(_why_no_log(pod, name))
    follow = query.get("follow", "").lower() in ("1", "true")
    lines = container.log.lines()
    n_read = len(lines)
    since = _since(query)
    if since:
        lines = [line for line in lines if line[0] >= since]
    if query.get("tailLines"):
        n_tail = int(query["tailLines"])
        lines = lines[len(lines) - n_tail :] if 0 < n_tail <= len(lines) else lines if n_tail else []
    left = int(query.get("limitBytes") or 0) or None

    def encoded() -> Iterator[bytes]:
        nonlocal left
        more = container.log.follow(n_read, is_wanted) if follow else iter(())
        for group in (lines, more):
            for stamp, line in group:
                text = stamp.encode() + b" " + line if query.get("timestamps") in ("true", "1") else line
                text = text[:left]
                left = None if left is None else left - len(text)
                yield text
                if left == 0:
                    return

    return encoded()


def _why_no_log(pod: Json, name: str) -> str:
    where = pod["metadata"]["name"]
    if not pod["spec"].get("nodeName"):
        return f"pod {where} does not have a host assigned"
    state = (pod["status"].get("containerStatuses") or [{}])[0].get("state") or {}
    reason = (state.get("waiting") or {}).get("reason", "ContainerCreating")
    if reason in ("ErrImagePull", "ImagePullBackOff"):
        reason = "trying and failing to pull image"
    return f'container "{name}" in pod "{where}" is waiting to start: {reason}'


def _since(query: dict[str, str]) -> str:
    if query.get("sinceTime"):
        moment = datetime.fromisoformat(query["sinceTime"].replace("Z", "+00:00"))
    elif query.get("sinceSeconds"):
        moment = datetime.now(UTC) - timedelta(seconds=int(query["sinceSeconds"]))
    else:
        return ""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
