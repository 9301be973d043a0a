"""Training in several processes, on several machines: torch's elastic launcher, and what comes of it.

One launcher runs on each machine (https://docs.pytorch.org/docs/stable/elastic/run.html is its command line). They meet
at the first machine's endpoint and start their training processes together; if one process is lost, or a machine is,
all of them are stopped and, once everyone is there, started again: they go on from the last checkpoint.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from radit_job import observe
from radit_job.errors import RaditError, StageFailed, Terminated, TryAgainError, error_from_json
from radit_job.observe.events import emit
from radit_job.records import Example, write_rows
from radit_job.training.lm import TrainingSummary
from radit_job.training.settings import LMTrainingSettings

MEETING_S = 900  # until all machines must have come, the first time and after each loss
MAX_RESTARTS = 5  # of a machine's processes; that another machine comes back does not count
STOPPING_S = 45  # between SIGTERM and SIGKILL for the processes; a pod has 60, and its scratch folder is to be saved
POLL_S = 1.0
MAX_CONNECT_S = 10.0
HANDLED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)  # the launcher takes them
END = b"end\n"


@dataclass(frozen=True, slots=True)
class Machines:
    """Which machine of those that train together it is, and how many processes each has."""

    index: int = 0
    count: int = 1
    endpoint: str = ""  # host:port on the first one, where there are several
    n_processes: int = 1  # on each


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

    A training process's own RaditError comes out as it is. TryAgainError if the machines do not meet, or the first one
    is lost; StageFailed if the processes end again and again.
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
    config = _launch_config(machines)
    command = ("-m", "radit_job.training.distributed_worker", str(at / "order.json"))
    try:
        with _signal_handlers_kept(), _own_meeting_place():
            elastic_launch(config, sys.executable)(*command)
    except SignalException as told:
        signal.raise_signal(told.sigval)  # the stage's own handler says what that means
        raise Terminated("terminated") from None
    except RendezvousError as error:
        raise TryAgainError(
            f"the {machines.count} machines that train together have lost one another: {error}",
            where=machines.endpoint,
            todo="It goes on from the last checkpoint when all are there again.",
        ) from error
    except ChildFailedError as error:
        raise _cause(at, error) from error


def _launch_config(machines: Machines) -> LaunchConfig:
    endpoint = machines.endpoint if machines.count > 1 else "127.0.0.1:0"
    return LaunchConfig(
        min_nodes=machines.count,
        max_nodes=machines.count,
        nproc_per_node=machines.n_processes,
        run_id="radit",  # the endpoint serves this run alone
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint,
        rdzv_configs={"timeout": MEETING_S, "is_host": machines.index == 0},
        local_addr=_own_address(endpoint, listens=machines.index > 0),
        max_restarts=MAX_RESTARTS,
        shutdown_timeout=STOPPING_S,
    )


def _own_address(endpoint: str, *, listens: bool) -> str:
    """By which address the other machines reach this one: that from which it reaches the first.

    Waits until the first machine's name is known and, on the others, until it `listens`; TryAgainError if not in time.
    """
    host, _, port = endpoint.rpartition(":")
    kind = socket.SOCK_STREAM if listens else socket.SOCK_DGRAM  # connecting the latter sends nothing
    deadline_s = time.monotonic() + MEETING_S
    said = False
    while True:
        try:
            family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), int(port) or 1, type=kind)[0]
            with socket.socket(family, kind) as probe:
                probe.settimeout(MAX_CONNECT_S)
                probe.connect(address)
                return str(probe.getsockname()[0])
        except OSError as error:
            if time.monotonic() >= deadline_s:
                what = f"the first of the machines that train together did not come within {MEETING_S} s: {error}"
                raise TryAgainError(what, where=endpoint) from error
        if not said:
            observe.log("waiting for the first of the machines that train together", endpoint=endpoint)
            said = True
        time.sleep(POLL_S)


@contextmanager
def _own_meeting_place() -> Iterator[None]:
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
def _signal_handlers_kept() -> Iterator[None]:
    """The launcher sets handlers of its own and leaves them behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in HANDLED_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _cause(at: Path, failed: ChildFailedError) -> RaditError:
    """What a training process left behind about its end: the first of them that failed."""
    for path in sorted(at.glob("error-*.json")):
        return error_from_json(json.loads(path.read_text()))
    rank, failure = failed.get_first_failure()
    crashes: list[dict[str, Any]] = [json.loads(path.read_text()) for path in at.glob("crash-*.json")]
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        return StageFailed(
            f"a training process (rank {rank}) was ended by {name}, {MAX_RESTARTS + 1} times",
            todo="The system kills with SIGKILL what takes too much memory: lower finetune_lm.batch_size.",
        )
    first = min(crashes, key=lambda crash: float(crash["time_s"]), default={"what": f"exit code {failure.exitcode}"})
    return StageFailed(f"a training process failed, {MAX_RESTARTS + 1} times: {first['what']}", todo="See its log.")


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
                with suppress(ValueError):  # a process was killed in the middle of a line
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
