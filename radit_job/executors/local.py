"""Stages as processes of this machine: `python -m radit_job stage NAME`, one log file each."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from radit_job.jobs import JobSpec, JobState, Outcome, Resources
from radit_job.observe.events import emit
from radit_job.store import ObjectStore

STOP_PATIENCE_S = 10.0  # what a stage gets between SIGTERM and SIGKILL
MEMORY_SHARE = 0.9  # of the machine's memory; the rest is the system's


class LocalExecutor:
    """An Executor on this machine. Stages run side by side while memory allows, heavy ones one at a time."""

    def __init__(self, store: ObjectStore, log_folder: Path) -> None:
        self._store = store
        self._log_folder = log_folder
        self._running: dict[str, tuple[subprocess.Popen[bytes], Resources]] = {}
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
        command = [
            sys.executable,
            "-m",
            "radit_job",
            "stage",
            spec.stage,
            "--spec",
            spec_name,
            "--store",
            self._store.url,
        ]
        self._log_folder.mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the controller alone, which then stops the stages in order
            env={**os.environ, "RADIT_PARENT_PIPE": "1", "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"},
        )
        self._running[spec.stage] = (process, spec.resources)
        threading.Thread(target=self._follow, args=(spec.stage, process), daemon=True, name=spec.stage).start()

    def wait(self) -> list[tuple[str, Outcome]]:
        """See Executor."""
        ended = [self._ended.get()]
        while not self._ended.empty():
            ended.append(self._ended.get())
        for stage, _ in ended:
            self._running.pop(stage, None)
        return ended

    def stop(self) -> None:
        """See Executor."""
        processes = [process for process, _ in self._running.values()]
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(STOP_PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()

    def _follow(self, stage: str, process: subprocess.Popen[bytes]) -> None:
        """Copy the stage's output to its log, pass its events on, and report its end, come what may."""
        log = _Log(self._log_folder / f"{stage}.jsonl", stage)
        error: dict[str, Any] | None = None
        try:
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            for line in process.stdout:
                event = _parse(line)
                log.write(event)
                if event["event"] == "error":
                    error = event
                elif event["event"] in ("progress", "log"):
                    emit(**{**event, "stage": stage})
        finally:
            log.close()
            code = process.wait()
            state = JobState.SUCCEEDED if code == 0 else JobState.FAILED
            self._ended.put((stage, Outcome(state, code, error, str(log.path))))


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
                self._file.write((json.dumps(event, ensure_ascii=False) + "\n").encode(errors="replace"))
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


def _parse(line: bytes) -> dict[str, Any]:
    """One line of output as an event; what a library printed becomes an event of its own kind."""
    text = line.decode(errors="replace").rstrip("\n")
    if text.startswith("{"):
        try:
            event = json.loads(text)
            if isinstance(event, dict) and "event" in event:
                return event
        except ValueError:
            pass
    return {"event": "output", "text": text}
