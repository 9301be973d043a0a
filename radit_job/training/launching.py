"""Training in several processes, on several machines: torch's elastic launcher, and what comes of it.

One launcher runs on each machine (https://docs.pytorch.org/docs/stable/elastic/run.html is its command line). They meet
at the first machine's endpoint and start their training processes together; if one process is lost, or a machine is,
all of them are stopped and, once everyone is there, started again: they go on from the last checkpoint.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from torch import distributed
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.rendezvous import RendezvousError

from radit_job.errors import Terminated, TryAgainError
from radit_job.observe.events import emit
from radit_job.records import Example, write_rows
from radit_job.training.lm import TrainingSummary
from radit_job.training.losses import MAX_LOSSES, MAX_RESTARTS, Losses
from radit_job.training.meeting import MEETING_S, POLL_S, Machines, Meeting, await_first, join_meeting, meeting_place
from radit_job.training.settings import LMTrainingSettings

STOPPING_S = 45  # between SIGTERM and SIGKILL for the processes; a pod has 60, and its scratch folder is to be saved
ENDING_S = 30  # between the ends of the machines' launchers; their processes end together
MONITOR_S = 0.1
HANDLED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)  # the launcher takes them
END = b"end\n"


def tune_together(
    machines: Machines,
    folder: Path,
    train: Sequence[Example],
    dev: Sequence[Example],
    settings: LMTrainingSettings,
    *,
    out: Path,
    scratch: Path,
    base_name: str,
) -> TrainingSummary | None:
    """`tune` in several processes; the summary on the first machine, None on the others, which write no model.

    None, too, where the machine comes when all is over. A training process's own RaditError comes out as it is.
    TryAgainError if the machines do not meet, or the first one is lost; StageFailed if this one's processes end again
    and again.
    """
    with tempfile.TemporaryDirectory(prefix="radit-") as name:
        at = Path(name)
        write_rows(at / "train.jsonl", train)
        write_rows(at / "dev.jsonl", dev)
        order = {
            "model": str(folder.absolute()),
            "settings": asdict(settings),
            "out": str(out.absolute()),
            "scratch": str(scratch.absolute()),
            "base_name": base_name,
            "node": machines.index,
            "n_nodes": machines.count,
            "processes_per_node": machines.n_processes,
            "parent_pid": os.getpid(),
        }
        (at / "order.json").write_text(json.dumps(order))
        with _events_shown(at / "events"):
            _launch(machines, at)
        if machines.index > 0:
            return None
        return TrainingSummary(**json.loads((at / "summary.json").read_text()))


def _launch(machines: Machines, at: Path) -> None:
    try:
        with _signals_raised(), _new_address_each_round(), meeting_place(machines) as port:
            _train_together(machines, at, port)
    except SignalException as told:
        signal.raise_signal(told.sigval)  # the stage's own handler says what that means
        raise Terminated("terminated") from None
    except (RendezvousError, distributed.DistError) as error:
        raise TryAgainError(
            f"the {machines.count} machines that train together have lost one another: {error}",
            where=machines.endpoint,
            todo="It goes on from the last checkpoint when all are there again.",
        ) from error


def _train_together(machines: Machines, at: Path, port: int) -> None:
    """Start the processes and watch them to the end; on a machine that comes late there may be nothing left to do.

    The first one may be about to end: so as long as this one has not met it, it looks for the next one, or the end.
    """
    deadline_s = time.monotonic() + MEETING_S
    while own_address := await_first(machines):
        meeting: Meeting | None = None
        try:
            meeting = join_meeting(machines, port, own_address)
            if Agent(machines, at, meeting).run() is not None:
                return
        except (RendezvousError, distributed.DistError):
            if machines.index == 0 or (meeting and meeting.has_met) or time.monotonic() >= deadline_s:
                raise
        finally:
            if meeting:
                meeting.shutdown()
        time.sleep(POLL_S)


class Agent(LocalElasticAgent):
    """torch's launcher of one machine's processes; `Losses` decides which losses it goes on after."""

    def __init__(self, machines: Machines, at: Path, meeting: Meeting) -> None:
        super().__init__(
            WorkerSpec(
                role="trainer",
                local_world_size=machines.n_processes,
                rdzv_handler=meeting,
                entrypoint=sys.executable,
                args=("-m", "radit_job.training.distributed_worker", str(at / "order.json")),
                max_restarts=MAX_RESTARTS + MAX_LOSSES + 1,  # more than are used
                monitor_interval=MONITOR_S,
            ),
            DefaultLogsSpecs(),
            exit_barrier_timeout=ENDING_S,
            shutdown_timeout=STOPPING_S,
        )
        self._losses = Losses(at, machines.index * machines.n_processes, machines.count)

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result: RunResult = super()._monitor_workers(worker_group)
        if result.state is WorkerState.FAILED:
            error = self._losses.verdict(list(result.failures.values()))
            if error is not None:
                raise error
        return result


@contextmanager
def _new_address_each_round() -> Iterator[None]:
    """The processes meet at an address that is new in each round.

    By default all rounds share one, and a launcher goes on with the one it knows when the machine that had it is lost.
    """
    name = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"  # torch/distributed/elastic/rendezvous/dynamic_rendezvous.py
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _signals_raised() -> Iterator[None]:
    """Signals come as the launcher's own exception from the start, after which it stops its processes.

    The launcher sets such handlers of its own, but late, with the first process, and leaves them behind.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def tell(number: int, frame: FrameType | None) -> None:
        raise SignalException(f"signal {number}", signal.Signals(number))

    before = {number: signal.signal(number, tell) for number in HANDLED_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _events_shown(pipe: Path) -> Iterator[None]:
    """Show what the first training process tells, as if it happened here."""
    os.mkfifo(pipe)
    ends = os.open(pipe, os.O_RDWR)  # both, so that it never runs dry between two tries

    def show() -> None:
        with os.fdopen(os.dup(ends), "rb") as lines:
            for line in lines:
                if line == END:
                    return
                with suppress(Exception):  # killed in the middle of a line; and who writes must never wait for us
                    event = json.loads(line)
                    emit(event.pop("event"), **event)

    reader = threading.Thread(target=show, daemon=True, name="training-events")
    reader.start()
    try:
        yield
    finally:
        os.write(ends, b"\n" + END)
        reader.join()
        os.close(ends)
