"""The stage finetune_lm on a tiny model, as a real process that is stopped and killed."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from radit_job.config.finetuning import FinetuneLM
from radit_job.config.models import Model
from radit_job.config.slices import FinetuneLMSlice
from radit_job.jobs import ArtifactRef, JobSpec
from radit_job.pipeline.names import spec_file
from radit_job.records import Example, Message, write_rows
from radit_job.stages.finetune_lm import run
from radit_job.store import artifacts as committed
from radit_job.store import open_store
from tests.e2e.conftest import environment

PATIENCE_S = 300.0  # for anything; the machine may be busy
GRACE_S = 10.0  # between SIGTERM and SIGKILL, as the local executor has it: for the checkpoint, not for the exit


def example(number: int) -> Example:
    question = f"Where is box {number}?"
    text = f"Box {number} is in room {number % 5}. {'It is heavy. ' * (number % 7)}\nQuery: {question}"
    answer = f"In room {number % 5}.{' Really.' * (number % 3)}"
    messages = (Message("system", "Answer."), Message("user", text), Message("assistant", answer))
    return Example(f"q{number}", question, f"chunk{number}", (), (), None, messages)


class TrainingBench:
    """One run's stage finetune_lm in a folder store; started again it goes on."""

    def __init__(self, folder: Path, lm: Path, **tuning: Any) -> None:
        self.store = open_store(str(folder / "store"))
        self.folder = folder
        write_rows(folder / "in/examples/examples.jsonl", map(example, range(30)))
        manifest, _ = committed.publish(self.store, "augment", "k", folder / "in", ["examples"], {})
        settings = {
            "epochs": 5,
            "batch_size": 3,
            "dev_share": 0.17,
            "patience": 0,
            "checkpoint_interval_s": 1e-9,
            **tuning,
        }
        self.sees = sees = FinetuneLMSlice(
            seed=7,
            lm=Model(provider="huggingface", name=str(lm), dtype="float32").model_dump(),
            finetune_lm=FinetuneLM(**settings).model_dump(),
        )
        examples = ArtifactRef("examples", "augment", "k", manifest.digest_of("examples"))
        plain, n_nodes = sees.model_dump(mode="json"), sees.finetune_lm.nodes
        spec = JobSpec("r", "finetune_lm", 3, "k", plain, (examples,), nodes=n_nodes)
        self.spec_name = spec_file("r", "finetune_lm", "k")
        self.store.write(self.spec_name, json.dumps(spec.to_json()).encode())

    def start(self, **variables: str) -> Stage:
        """Start the stage's process, with these in its environment."""
        return Stage(["stage", "finetune_lm", "--spec", self.spec_name, "--store", self.store.url], variables)

    def start_node(self, index: int, port: int) -> Stage:
        """Start the process of one of several nodes, which meet at a port of this machine."""
        return self.start(JOB_COMPLETION_INDEX=str(index), RADIT_ENDPOINT=f"127.0.0.1:{port}")

    def trained_here(self) -> dict[str, Any]:
        """What one process tells of the training: this one, so that nothing is imported again."""
        for name in ("out", "scratch"):
            (self.folder / name).mkdir()
        run(self.sees, examples=self.folder / "in/examples", out=self.folder / "out", scratch=self.folder / "scratch")
        found: dict[str, Any] = json.loads((self.folder / "out/lm/training.json").read_text())
        return found

    def training(self) -> dict[str, Any]:
        """What the committed artifact tells of the training."""
        manifest = committed.find(self.store, "finetune_lm", "k")
        assert manifest is not None
        lm = committed.fetch(self.store, manifest, "lm", self.folder / "lm")
        found: dict[str, Any] = json.loads((lm / "training.json").read_text())
        return found


class Stage:
    """A process of the stage, and what it told so far."""

    def __init__(self, arguments: list[str], variables: dict[str, str]) -> None:
        command = [sys.executable, "-m", "radit_job", *arguments]
        told = {**environment(), **variables}
        self.process = subprocess.Popen(command, env=told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.events: list[dict[str, Any]] = []
        self.said: list[str] = []
        self._new: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def until(self, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
        """The first event from now on of which that holds; None if the process ends before."""
        while (line := self._new.get(timeout=PATIENCE_S)) is not None:
            self.said.append(line)
            if line.startswith("{"):
                self.events.append(json.loads(line))
                if is_it(self.events[-1]):
                    return self.events[-1]
        return None

    def ended(self, *, by: int | None = None) -> int:
        """Send a signal, wait for the end; the exit code."""
        if by is not None:
            self.process.send_signal(by)
        self.until(lambda event: False)
        return self.process.wait(PATIENCE_S)

    def kept_within_s(self) -> float:
        """Send SIGTERM; how long it took until a checkpoint was kept. Waits for the end, which must be by that signal.

        What remains is Python's exit, which takes seconds on a busy machine.
        """
        asked_s = time.time()
        code = self.ended(by=signal.SIGTERM)
        assert code == 128 + signal.SIGTERM, self.said
        [told] = self._told("told to stop")
        return float(told["time_s"]) - asked_s

    def ends_within(self, seconds: float) -> bool:
        """Whether it ends by itself before so many seconds have passed."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    @property
    def steps_done(self) -> int:
        """Steps of the optimizer, as the process told last; when it is told to stop, it tells exactly."""
        steps = [event["done"] for event in self.events if event.get("label") == "fine-tuning"]
        return max([*steps, *(event["step"] for event in self._told("told to stop"))], default=0)

    @property
    def gone_on_from(self) -> list[int]:
        """The steps from which training went on, in their order."""
        return [event["step"] for event in self._told("going on from a checkpoint")]

    def children(self) -> list[int]:
        """The processes that this one has started and that still live."""
        found = []
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = status.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == self.process.pid and fields[0] != "Z":
                found.append(int(status.parent.name))
        return found

    def _told(self, beginning: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event.get("message", "").startswith(beginning)]

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._new.put(line.decode(errors="replace"))
        self._new.put(None)


def is_step(number: int) -> Callable[[dict[str, Any]], bool]:
    """Whether an event tells that so many steps are done."""
    return lambda event: event.get("label") == "fine-tuning" and event["done"] >= number


def lives(process: int) -> bool:
    """Whether a process has not ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(is_so: Callable[[], bool], within_s: float) -> bool:
    """Poll with a deadline."""
    deadline_s = time.monotonic() + within_s
    while not is_so():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.02)
    return True


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kill(process: int) -> None:
    """With SIGKILL."""
    os.kill(process, signal.SIGKILL)


def greatest_difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Between two runs' losses of all steps and all evaluations, nats per answer token."""
    assert [row["step"] for row in one["steps"]] == [row["step"] for row in other["steps"]]
    assert [row["step"] for row in one["evaluations"]] == [row["step"] for row in other["evaluations"]]
    steps = zip(one["steps"], other["steps"], strict=True)
    evaluations = zip(one["evaluations"], other["evaluations"], strict=True)
    return max(
        [abs(a["loss"] - b["loss"]) for a, b in steps] + [abs(a["dev_loss"] - b["dev_loss"]) for a, b in evaluations]
    )
