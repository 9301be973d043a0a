"""Which losses of training processes count, as whose, and what is said when there were too many."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from radit_job.errors import InputError, StageFailed, TryAgainError
from radit_job.training.losses import MAX_LOSSES, MAX_RESTARTS, Losses
from radit_job.training.world import is_lost_peer


@dataclass
class Ended:
    local_rank: int
    exitcode: int
    timestamp: int = 100


def left(at: Path, rank: int, *, is_lost_peer: bool) -> None:
    crash = {"what": f"RuntimeError: of rank {rank}", "is_lost_peer": is_lost_peer}
    (at / f"crash-{rank}.json").write_text(json.dumps(crash))


def last_word(losses: Losses, *ended: Ended, n_more: int) -> Any:
    """What is said after one loss more than that, and nothing before."""
    assert [losses.verdict(ended) for _ in range(n_more)] == [None] * n_more
    return losses.verdict(ended)


@pytest.mark.parametrize("code", [1, -signal.SIGTERM, -signal.SIGABRT])
def test_losing_other_machines_is_no_fault_however_the_process_ends_of_it(tmp_path: Path, code: int) -> None:
    left(tmp_path, 2, is_lost_peer=True)
    losses = Losses(tmp_path, 2, n_machines=2)
    stopped_late = Ended(1, -signal.SIGKILL, timestamp=130)  # by the launcher: it did not listen to SIGTERM
    assert type(last_word(losses, Ended(0, code), stopped_late, n_more=MAX_LOSSES)) is TryAgainError


@pytest.mark.parametrize(
    ("ended", "says", "advice"),
    [
        (Ended(1, -signal.SIGKILL), "rank 3) was ended by SIGKILL, 6 times", "batch_size"),
        (Ended(1, -signal.SIGSEGV), "rank 3) was ended by SIGSEGV, 6 times", "log"),
        (Ended(1, 1), "a training process failed, 6 times: RuntimeError: of rank 3", "log"),
    ],
)
def test_the_process_at_fault_is_told_and_not_one_that_lost_it(
    tmp_path: Path, ended: Ended, says: str, advice: str
) -> None:
    left(tmp_path, 2, is_lost_peer=True)
    left(tmp_path, 3, is_lost_peer=False)
    error = last_word(Losses(tmp_path, 2, n_machines=2), Ended(0, 1), ended, n_more=MAX_RESTARTS)
    assert type(error) is StageFailed
    assert says in error.what and advice in error.todo


def test_on_one_machine_somebody_must_be_at_fault(tmp_path: Path) -> None:
    error = last_word(Losses(tmp_path, 0, n_machines=1), Ended(0, -signal.SIGTERM), n_more=MAX_RESTARTS)
    assert "was ended by SIGTERM" in error.what and "batch_size" not in error.todo


def test_an_error_of_our_own_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "error-1.json").write_text(json.dumps(InputError("no text").to_json()))
    error = Losses(tmp_path, 0, n_machines=2).verdict([Ended(0, -signal.SIGTERM), Ended(1, 65)])
    assert (type(error), str(error)) == (InputError, "no text")


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (RuntimeError("[/pytorch/gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:3"), True),
        (distributed.DistNetworkError("failed to connect"), True),
        (distributed.DistBackendError("NCCL error: ncclRemoteError: a remote process exited"), True),
        (distributed.DistBackendError("NCCL error: ncclUnhandledCudaError: Call to CUDA function failed."), False),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), False),
        (ValueError("wrong shape"), False),
    ],
)
def test_a_lost_peer_is_told_from_a_fault(error: Exception, is_lost: bool) -> None:
    assert is_lost_peer(error) is is_lost
