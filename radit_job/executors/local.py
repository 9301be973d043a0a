"""Stages as processes of this machine: `python -m radit_job stage NAME`, one log file each."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from radit_job.errors import Interrupted, StoreError
from radit_job.executors.forked_process import ForkedProcess, can_fork
from radit_job.executors.log_lines import format_line, parse_line
from radit_job.jobs import Condition, JobSpec, JobState, Outcome, Resources
from radit_job.observe.events import emit
from radit_job.store import ObjectStore

StageProcess = subprocess.Popen[bytes] | ForkedProcess

STOP_PATIENCE_S = 60.0  # from SIGTERM to SIGKILL, as in a pod: time to save a checkpoint
SILENCE_S = 2.0  # a stage that takes longer to stop is spoken of
MEMORY_SHARE = 0.9  # of the machine's memory; the rest is the system's


class LocalExecutor:
    """An Executor on this machine. Stages run side by side while memory allows, heavy ones one at a time."""

    name = "local"
    context: str | None = None
    namespace: str | None = None
    afterwards = "What is committed is kept; the same command goes on from there."

    def __init__(self, store: ObjectStore, log_folder: Path, *, keeps_logs_in_store: bool = False) -> None:
        self._store = store
        self._log_folder = log_folder
        self._keeps_logs_in_store = keeps_logs_in_store  # the folder is not itself in the store
        self._running: dict[str, tuple[StageProcess, Resources]] = {}
        self._ended: queue.Queue[tuple[str, Outcome]] = queue.Queue()
        self._memory_gib = MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)

    def has_room(self, resources: Resources) -> bool:
        """See Executor; a stage that finds nothing running always may."""
        others = [taken for _, taken in self._running.values()]
        if not others:
            return True
        if resources.is_heavy and any(taken.is_heavy for taken in others):
            return False
        return sum(taken.memory_gib for taken in others) + resources.memory_gib <= self._memory_gib

    def start(self, spec: JobSpec, spec_name: str) -> None:
        """See Executor."""
        arguments = ["stage", spec.stage, "--spec", spec_name, "--store", self._store.url]
        self._log_folder.mkdir(parents=True, exist_ok=True)
        process = _start(arguments, forked=spec.resources.loads_models and can_fork())
        self._running[spec.stage] = (process, spec.resources)
        threading.Thread(target=self._follow, args=(spec, process), daemon=True, name=spec.stage).start()

    def wait(self) -> list[tuple[str, Outcome | Condition]]:
        """See Executor."""
        ended: list[tuple[str, Outcome | Condition]] = [self._ended.get()]
        while not self._ended.empty():
            ended.append(self._ended.get())
        for stage, _ in ended:
            self._running.pop(stage, None)
        return ended

    def stop(self) -> None:
        """See Executor. A second Ctrl-C or SIGTERM kills at once what has not ended by then."""
        processes = {stage: process for stage, (process, _) in self._running.items()}
        began_s = time.monotonic()
        try:
            for process in processes.values():
                process.send_signal(signal.SIGTERM)
            if not _ended(processes.values(), began_s + SILENCE_S):
                stages = ", ".join(stage for stage, process in processes.items() if process.poll() is None)
                message = f"waiting up to {STOP_PATIENCE_S:.0f} s while it keeps what it has done; Ctrl-C ends it now"
                emit("log", stage=stages, message=message)
                _ended(processes.values(), began_s + STOP_PATIENCE_S)
        except (KeyboardInterrupt, Interrupted):
            pass
        finally:
            for process in processes.values():
                process.kill()  # nothing happens to one that has ended
            for process in processes.values():
                process.wait()
        self._running.clear()

    def _follow(self, spec: JobSpec, process: StageProcess) -> None:
        """Copy the stage's output to its log, pass its events on, and report its end, come what may."""
        stage = spec.stage
        log = _Log(self._log_folder / f"{stage}.jsonl", stage)
        error: dict[str, Any] | None = None
        try:
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            for line in process.stdout:
                event = parse_line(line)
                log.write(event)
                if event["event"] == "error":
                    error = event
                elif event["event"] in ("progress", "log"):
                    emit(**{**event, "stage": stage})
        finally:
            log.close()
            place = self._keep(log.path, f"runs/{spec.run}/logs/{stage}.jsonl")
            code = process.wait()
            state = JobState.SUCCEEDED if code == 0 else JobState.FAILED
            self._ended.put((stage, Outcome(state, code, error, place)))

    def _keep(self, log: Path, name: str) -> str:
        """Put a log that lies beside the store into it; where it is then."""
        if not self._keeps_logs_in_store:
            return str(log)
        try:
            self._store.upload(name, log)
        except (OSError, StoreError) as error:
            emit("log", level="warning", message=f"the log is not kept: {error}")
        return f"{self._store.url.partition('?')[0]}/{name}"


def _start(arguments: list[str], *, forked: bool) -> StageProcess:
    environment = {**os.environ, "RADIT_PARENT_PIPE": "1", "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    if forked:
        with suppress(OSError, EOFError):  # no server: a process of its own says why, in the stage's log
            return ForkedProcess(arguments, environment)
    return subprocess.Popen(
        [sys.executable, "-m", "radit_job", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches the controller alone, which then stops the stages in order
        env=environment,
    )


def _ended(processes: Iterable[StageProcess], deadline_s: float) -> bool:
    """Wait for their ends; False where one has not come in time."""
    try:
        for process in processes:
            process.wait(max(0.0, deadline_s - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    return True


class _Log:
    """One attempt's log file. What cannot be written is said once; it never takes the stage's outcome with it."""

    def __init__(self, path: Path, stage: str) -> None:
        self.path = path
        self._stage = stage
        self._file: BinaryIO | None = None
        with self._trouble_told():
            self._file = path.open("wb")

    def write(self, event: dict[str, Any]) -> None:
        with self._trouble_told():
            if self._file is not None:
                self._file.write(format_line(event))
                self._file.flush()

    def close(self) -> None:
        with self._trouble_told():
            if self._file is not None:
                self._file.close()

    @contextmanager
    def _trouble_told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._file = None
            emit("log", level="warning", stage=self._stage, message=f"the log is incomplete: {error}")
