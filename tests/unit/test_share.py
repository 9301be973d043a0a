"""What a node that did its part does until the first one has committed."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from radit_job import share
from radit_job.errors import ConfigError, TryAgainError
from radit_job.jobs import JobSpec, NodeGroup
from radit_job.pipeline.catalog import CATALOG
from radit_job.share import Share, await_commit, share_of
from radit_job.store import LocalStore
from radit_job.store.artifacts import publish

SPEC = JobSpec("r", "finetune_lm", 3, "k", {}, (), nodes=2)
NOWHERE = "127.0.0.1:9"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share, "POLL_S", 0.02)


def second(endpoint: str = NOWHERE) -> Share:
    return Share(nodes=NodeGroup(1, 2, endpoint))


def test_it_waits_for_the_commit_of_the_first(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    waiting = threading.Thread(target=await_commit, args=(store, SPEC, second(), ""), daemon=True)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    (tmp_path / "out/lm").mkdir(parents=True)
    (tmp_path / "out/lm/file").write_text("x")
    publish(store, SPEC.stage, SPEC.key, tmp_path / "out", ["lm"], {})
    waiting.join(20)
    assert not waiting.is_alive()


def test_it_does_not_wait_for_ever(tmp_path: Path) -> None:
    with pytest.raises(TryAgainError, match="has not committed within 0 s"):
        await_commit(LocalStore(tmp_path), SPEC, second(), "", patience_s=0)


def test_it_helps_a_first_node_that_was_lost_and_begins_anew(tmp_path: Path) -> None:
    """As long as the place where they meet has not been left it is the old one's, which is committing."""
    caught: list[TryAgainError] = []
    first = socket.create_server(("127.0.0.1", 0))
    first.settimeout(20)
    port = first.getsockname()[1]

    def wait() -> None:
        try:
            await_commit(LocalStore(tmp_path), SPEC, second(f"127.0.0.1:{port}"), "", patience_s=20)
        except TryAgainError as error:
            caught.append(error)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    for _ in range(2):
        first.accept()
    assert waiting.is_alive() and not caught
    first.close()
    waiting.join(0.5)
    assert waiting.is_alive()
    with socket.create_server(("127.0.0.1", port)):
        waiting.join(20)
    assert [error.what for error in caught] == ["the first node was lost before it committed, and begins anew"]


def test_a_stage_for_one_node_refuses_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    monkeypatch.setenv("RADIT_ENDPOINT", "job-0.job:29400")
    row = next(row for row in CATALOG if row.spans_nodes)
    assert share_of(row, SPEC) == Share(nodes=NodeGroup(1, 2, "job-0.job:29400"))
    assert share_of(row, SPEC).suffix == "-1-of-2"
    other = next(row for row in CATALOG if not row.spans_nodes)
    with pytest.raises(ConfigError, match="runs on one node"):
        share_of(other, SPEC)
