"""The commands that look at the cluster or end a run, against the small API server."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from radit_job.cli.cluster import cancel
from radit_job.cli.options import cluster_of
from radit_job.executors.kubernetes.client import KubernetesClient
from radit_job.pipeline.runs import RunRecord, RunStatus, save_run
from radit_job.store import LocalStore
from tests.executors.conftest import eventually, plain_job, warnings
from tests.servers.kubernetes.server import KubernetesServer


def record_of(status: RunStatus = "running") -> RunRecord:
    return RunRecord("my-run", "sha256:0", "kubernetes", "2026-01-01T00:00:00Z", status, controller_job="radit")


@pytest.mark.parametrize(("status", "left"), [("running", ["radit-2"]), ("done", ["radit", "radit-2"])])
def test_cancel_ends_the_controller_that_the_run_s_record_names_unless_the_run_is_done(
    server: KubernetesServer, client: KubernetesClient, tmp_path: Path, status: RunStatus, left: list[str]
) -> None:
    for name in ("radit", "radit-2"):  # as those of k8s/: no label says whose they are
        client.create("jobs", plain_job(name, command="sleep 600"))
    eventually(lambda: len(server.objects("pods")) == 2)
    save_run(LocalStore(tmp_path / "store"), record_of(status))
    cancel("my-run", str(tmp_path / "store"))
    assert sorted(job["metadata"]["name"] for job in server.objects("jobs")) == left


def test_a_command_does_not_wait_long_for_an_api_server_that_is_away(
    server: KubernetesServer, client: KubernetesClient, told: list[dict[str, Any]]
) -> None:
    asked = cluster_of(record_of(), None, None)
    server.stop()
    thread = threading.Thread(target=lambda: asked.list("jobs"), daemon=True)
    thread.start()
    [warning] = eventually(lambda: warnings(told))
    server.start()
    assert "trying again for 10 s" in warning
    thread.join(20)
    assert not thread.is_alive()
