"""The reflector: every change is told once, whatever happens to the connection, and nothing is asked in between."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from typing import Any

import pytest

from radit_job.executors.kubernetes.answers import Forbidden
from radit_job.executors.kubernetes.client import KubernetesClient
from radit_job.executors.kubernetes.watch import Change, Reflector
from tests.executors.conftest import eventually
from tests.servers.kubernetes.resources import BY_KEY
from tests.servers.kubernetes.server import KubernetesServer

MINE = {"app": "mine"}


class Told:
    """What a reflector told, in order."""

    def __init__(self, client: KubernetesClient) -> None:
        self._changes: queue.SimpleQueue[Change] = queue.SimpleQueue()
        self.reflector = Reflector(client, "configmaps", self._changes.put, selector="app=mine").start()

    def next(self) -> tuple[str, str | None]:
        change = self._changes.get(timeout=20)
        if change.kind == "BROKEN":
            raise change.item
        return change.kind, change.item and change.item["metadata"]["name"]

    def is_silent(self) -> bool:
        return self._changes.empty()


@pytest.fixture
def told(server: KubernetesServer, client: KubernetesClient) -> Iterator[Told]:
    make(server, "a")
    make(server, "b")
    told = Told(client)
    assert [told.next() for _ in range(3)] == [("ADDED", "a"), ("ADDED", "b"), ("LISTED", None)]
    eventually(lambda: server.n_watches() == 1)
    yield told
    told.reflector.stop()


def make(server: KubernetesServer, name: str, labels: dict[str, str] = MINE) -> dict[str, Any]:
    return server.create("configmaps", {"metadata": {"name": name, "labels": labels}})


def change(server: KubernetesServer, name: str) -> None:
    resource = next(one for one in BY_KEY.values() if one.plural == "configmaps")
    body = {"data": {"at": str(time.monotonic())}}
    server.registry.patch(resource, "default", name, body, "application/merge-patch+json", "")


def remove(server: KubernetesServer, name: str) -> None:
    resource = next(one for one in BY_KEY.values() if one.plural == "configmaps")
    server.registry.delete(resource, "default", name, {})


def test_changes_come_as_they_happen_and_only_of_what_is_selected(server: KubernetesServer, told: Told) -> None:
    make(server, "not-mine", {})
    make(server, "c")
    change(server, "a")
    remove(server, "b")
    assert [told.next() for _ in range(3)] == [("ADDED", "c"), ("MODIFIED", "a"), ("DELETED", "b")]


def test_a_dropped_watch_goes_on_from_where_it_was(server: KubernetesServer, told: Told) -> None:
    for name in ("c", "d", "e"):
        assert server.drop_watches() == 1
        make(server, name)
        assert told.next() == ("ADDED", name)
        eventually(lambda: server.n_watches() == 1)
    assert server.count("list", "configmaps") == 1


def test_a_restarted_server_loses_nothing(server: KubernetesServer, told: Told) -> None:
    server.stop()
    make(server, "c")
    remove(server, "a")
    server.start()
    assert [told.next() for _ in range(2)] == [("ADDED", "c"), ("DELETED", "a")]
    assert server.count("list", "configmaps") == 1


def test_after_a_forgotten_history_what_is_gone_is_told_as_deleted(server: KubernetesServer, told: Told) -> None:
    server.stop()
    remove(server, "a")
    remove(server, "b")
    make(server, "b")  # the same name, another object
    make(server, "c")
    server.compact()
    server.start()
    expected = [("DELETED", "a"), ("DELETED", "b"), ("ADDED", "b"), ("ADDED", "c"), ("LISTED", None)]
    assert [told.next() for _ in range(5)] == expected
    assert server.count("list", "configmaps") == 2


def test_what_did_not_change_is_not_told_again(server: KubernetesServer, told: Told) -> None:
    server.stop()
    change(server, "b")
    server.compact()
    server.start()
    assert [told.next() for _ in range(2)] == [("MODIFIED", "b"), ("LISTED", None)]


class Listener:
    """A client of which it is noted what its watches tell."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client
        self.list = client.list
        self.versions: list[int] = []

    def watch(self, *args: Any, **more: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        for kind, item in self._client.watch(*args, **more):
            yield kind, item
            self.versions.append(int(item["metadata"]["resourceVersion"]))


def test_bookmarks_keep_a_quiet_watch_young(server: KubernetesServer, client: KubernetesClient) -> None:
    server.bookmark_every_s = 0.05
    listener = Listener(client)
    told = Told(listener)  # type: ignore[arg-type]
    assert told.next() == ("LISTED", None)
    eventually(lambda: server.n_watches() == 1)
    version = int(make(server, "not-mine", {})["metadata"]["resourceVersion"])
    eventually(lambda: listener.versions and listener.versions[-1] >= version)
    server.drop_watches()
    eventually(lambda: server.count("watch") == 2)
    told.reflector.stop()
    assert int(server.requests[-1].query["resourceVersion"]) >= version


def test_a_server_that_ends_every_watch_at_once_is_not_stormed(server: KubernetesServer, told: Told) -> None:
    began_s = time.monotonic()
    server.fail_next(1_000_000, 410, verb="watch")
    server.drop_watches()
    eventually(lambda: server.count("list", "configmaps") >= 4)
    assert time.monotonic() - began_s > 0.5


def test_a_forbidden_watch_is_reported_to_whoever_reads(server: KubernetesServer, client: KubernetesClient) -> None:
    server.allow_only([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}])
    told = Told(client)
    assert told.next() == ("LISTED", None)
    with pytest.raises(Forbidden, match="cannot watch configmaps"):
        told.next()


def test_stopping_cuts_the_connection_at_once(server: KubernetesServer, told: Told) -> None:
    began_s = time.monotonic()
    told.reflector.stop()
    eventually(lambda: server.n_watches() == 0)
    assert time.monotonic() - began_s < 5
    make(server, "c")
    assert told.is_silent()
