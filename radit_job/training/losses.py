"""Training processes that ended before their time: whether it was their own fault, and whether to start them again."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from radit_job.errors import RaditError, StageFailed, TryAgainError, error_from_json

MAX_RESTARTS = 5  # after a machine's own processes have failed
MAX_LOSSES = 50  # of other machines: each that is taken away and comes back is one for all the others
CLOSING_S = 30  # PContext.close's timeout: SIGKILL that comes so late is the launcher's own


class Failure(Protocol):
    """Of torch.distributed.elastic.multiprocessing.errors.ProcessFailure."""

    local_rank: int
    exitcode: int  # negative: a signal's number
    timestamp: int  # Unix time in seconds


@dataclass(slots=True)
class Losses:
    """How often one machine's processes had to be started again, and of whose fault."""

    at: Path  # where the processes leave files about their end
    first_rank: int  # of this machine's processes
    n_machines: int
    n_own: int = 0
    n_others: int = 0

    def verdict(self, failures: Sequence[Failure]) -> RaditError | None:
        """Why they are not started once more, if so: an error of our own, or too many tries.

        `failures` are all of this machine's processes that ended in one try; those that the launcher stopped, too.
        """
        for path in sorted(self.at.glob("error-*.json")):
            return error_from_json(json.loads(path.read_text()))
        failures = sorted(failures, key=lambda failure: failure.timestamp)
        at_fault = [failure for failure in failures if self._is_at_fault(failure, failures[0].timestamp)]
        if at_fault or self.n_machines == 1:
            self.n_own += 1
            return self._failed((at_fault or failures)[0]) if self.n_own > MAX_RESTARTS else None
        self.n_others += 1
        if self.n_others <= MAX_LOSSES:
            return None
        return TryAgainError(f"the other machines that train together were lost {self.n_others} times")

    def _is_at_fault(self, failure: Failure, first_s: int) -> bool:
        """Not one that has lost another process, or was stopped because of one."""
        if failure.exitcode > 0:
            return not self._left(failure).get("is_lost_peer", False)
        if failure.exitcode == -signal.SIGABRT:  # so NCCL's watchdog ends a process that waits for a lost one
            return self.n_machines == 1
        is_late = failure.timestamp - first_s >= CLOSING_S - 1
        return failure.exitcode != -signal.SIGTERM and not (failure.exitcode == -signal.SIGKILL and is_late)

    def _failed(self, failure: Failure) -> StageFailed:
        if failure.exitcode >= 0:
            what = self._left(failure).get("what", f"exit code {failure.exitcode}")
            return StageFailed(f"a training process failed, {self.n_own} times: {what}", todo="See its log.")
        rank, name = self.first_rank + failure.local_rank, signal.Signals(-failure.exitcode).name
        todo = "See its log."
        if failure.exitcode == -signal.SIGKILL:
            todo = "The system kills with SIGKILL what takes too much memory: lower finetune_lm.batch_size."
        return StageFailed(f"a training process (rank {rank}) was ended by {name}, {self.n_own} times", todo=todo)

    def _left(self, failure: Failure) -> dict[str, Any]:
        path = self.at / f"crash-{self.first_rank + failure.local_rank}.json"
        left: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return left
