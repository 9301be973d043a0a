"""A small Kubernetes API server for each test, a client of it, and the events that the client sends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from radit_job import observe
from radit_job.executors.kubernetes.client import KubernetesClient, connect
from tests.executors.job_bench import Cluster
from tests.servers.kubernetes.server import KubernetesServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[KubernetesServer]:
    with KubernetesServer(tmp_path / "cluster") as server:
        yield server


@pytest.fixture
def client(server: KubernetesServer, monkeypatch: pytest.MonkeyPatch) -> KubernetesClient:
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
    return connect(patience_s=20.0)


@pytest.fixture
def told() -> Iterator[list[dict[str, Any]]]:
    """What went through observe while the test ran."""
    events: list[dict[str, Any]] = []
    observe.send_events_to(events.append)
    yield events
    observe.send_events_to(lambda event: None)


def warnings(told: list[dict[str, Any]]) -> list[str]:
    return [event["message"] for event in told if event.get("level") == "warning"]


def eventually(is_so: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """The first true answer; a failure when there is none in time."""
    until_s = time.monotonic() + timeout_s
    while not (answer := is_so()):
        assert time.monotonic() < until_s, "it did not come to pass"
        time.sleep(0.01)
    return answer


def plain_job(name: str, labels: dict[str, str] | None = None, command: str = "true") -> dict[str, Any]:
    container = {"name": "stage", "image": "any", "command": ["sh", "-c", command]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {"backoffLimit": 0, "template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
    }


@pytest.fixture
def cluster(server: KubernetesServer, client: KubernetesClient, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(server, client, tmp_path)
    yield cluster
    cluster.stop()
