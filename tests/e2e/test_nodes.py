"""Several machines for one stage: each a `radit stage finetune_lm` of its own on one store, as a Job's pods are."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from radit_job.config.finetuning import FinetuneLM
from radit_job.config.models import Model
from radit_job.config.slices import FinetuneLMSlice
from radit_job.jobs import ArtifactRef, JobSpec
from radit_job.records import Example, Message, write_rows
from radit_job.store import ObjectStore, open_store
from radit_job.store import artifacts as committed
from tests.e2e.conftest import environment
from tests.servers.seaweedfs import SeaweedFS

PATIENCE_S = 120.0
SPEC_NAME = "runs/r/jobs/finetune_lm.json"


def example(number: int) -> Example:
    question = f"Where is box {number}?"
    messages = (
        Message("user", f"Box {number} is in room {number % 5}.\nQuery: {question}"),
        Message("assistant", f"In room {number % 5}."),
    )
    return Example(f"q{number}", question, f"chunk{number // 2}", (), (), None, messages)


class Group:
    """A stage on several machines, all of which are this one; each may be started, killed and started again."""

    def __init__(self, folder: Path, store: ObjectStore, lm: Path, **settings: Any) -> None:
        self.folder, self.store = folder, store
        write_rows(folder / "in/examples/examples.jsonl", map(example, range(24)))
        manifest, _ = committed.publish(store, "augment", "k", folder / "in", ["examples"], {})
        plain = {"epochs": 1, "learning_rate": 1e-2, "checkpoint_interval_s": 0.05, **settings}
        model = Model(provider="huggingface", name=str(lm), dtype="float32")
        config = FinetuneLMSlice(seed=7, lm=model.model_dump(), finetune_lm=FinetuneLM(**plain).model_dump())
        reference = ArtifactRef("examples", "augment", "k", manifest.digest_of("examples"))
        self.spec = JobSpec("r", "finetune_lm", 3, "0123456789ab", config.model_dump(mode="json"), (reference,))
        self.endpoint = f"127.0.0.1:{free_port()}"
        self.started: list[subprocess.Popen[str]] = []

    def start(self, index: int, variables: dict[str, str] | None = None, *, nodes: int = 2) -> subprocess.Popen[str]:
        spec = replace(self.spec, nodes=nodes)
        self.store.write(SPEC_NAME, json.dumps(spec.to_json()).encode())
        told = {"JOB_COMPLETION_INDEX": str(index), "RADIT_ENDPOINT": self.endpoint, "RADIT_KEEP_SCRATCH_S": "0.2"}
        place = {"RADIT_SCRATCH": str(self.folder / f"machine-{index}")}  # of a bucket; a folder has its own
        process = subprocess.Popen(
            [sys.executable, "-m", "radit_job", "stage", "finetune_lm", "--spec", SPEC_NAME, "--store", self.store.url],
            env={**environment(), **place, **told, **(variables or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def alone(self) -> dict[str, Any]:
        """What one process makes of the same, under a key of its own."""
        self.spec = replace(self.spec, key="a" * 12)
        ended(self.start(0, nodes=1))
        training = self.training()
        self.spec = replace(self.spec, key="0123456789ab")
        return training

    def training(self) -> dict[str, Any]:
        manifest = self.manifest()
        assert manifest is not None
        lm = committed.fetch(self.store, manifest, "lm", self.folder / f"lm-{manifest.attempt}")
        plain: dict[str, Any] = json.loads((lm / "training.json").read_text())
        return plain

    def manifest(self) -> committed.Manifest | None:
        return committed.find(self.store, "finetune_lm", self.spec.key)

    def scratch(self) -> list[str]:
        return [info.name for info in self.store.list(f"scratch/finetune_lm/{self.spec.key}")]


@contextmanager
def group(folder: Path, url: str, lm: Path, **settings: Any) -> Iterator[Group]:
    made = Group(folder, open_store(url), lm, **settings)
    try:
        yield made
    finally:
        for process in made.started:
            process.kill()
            process.communicate()


@pytest.fixture(params=["folder", "bucket"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "store")
    server: SeaweedFS = request.getfixturevalue("s3_environment")
    return server.store_url(f"bucket/nodes-{tmp_path.name}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ended(process: subprocess.Popen[str], code: int = 0) -> list[dict[str, Any]]:
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code, out
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def until(is_so: Callable[[], bool], *processes: subprocess.Popen[str]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < until_s
        for process in processes:
            assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


def losses(training: dict[str, Any]) -> list[float]:
    return [step["loss"] for step in training["steps"]] + [row["dev_loss"] for row in training["evaluations"]]


def test_two_nodes_commit_once_what_one_process_learns(tmp_path: Path, url: str, tiny_lm_folder: Path) -> None:
    with group(tmp_path, url, tiny_lm_folder) as two:
        both = [two.start(index) for index in (1, 0)]
        events = [ended(process) for process in both]
        assert [{event["node"] for event in told} for told in events] == [{1}, {0}]
        assert "its work is done; the first node commits" in [event.get("message") for event in events[0]]
        training = two.training()
        assert training["world"]["nodes"] == 2
        manifest = two.manifest()
        assert manifest is not None
        assert committed.read_result(two.store, manifest)["n_nodes"] == 2
        attempts = {info.name.split("/")[3] for info in two.store.list(f"artifacts/finetune_lm/{two.spec.key}/")}
        assert attempts == {"manifest.json", manifest.attempt}
        assert two.scratch() == []
        # A pod that is started once more finds the work done.
        assert [event["message"] for event in ended(two.start(1))] == ["already committed; nothing to do"]
        if "://" not in url:
            assert losses(training) == pytest.approx(losses(two.alone()), abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_node_that_is_killed_and_replaced_goes_on_to_the_same_loss(
    tmp_path: Path, tiny_lm_folder: Path, victim: int
) -> None:
    with group(tmp_path, str(tmp_path / "store"), tiny_lm_folder, epochs=8, patience=0, dev_share=0) as two:
        both = [two.start(index) for index in (0, 1)]
        first = tmp_path / "store/scratch/finetune_lm" / f"{two.spec.key}-0-of-2"
        until(lambda: any(first.rglob("step-*/state.json")), *both)
        both[victim].send_signal(signal.SIGKILL)
        both[victim].wait()
        is_replaced = {victim}
        other = both[1 - victim]
        if victim == 0:  # with it the place where they meet is gone
            ended(other, 75)
            is_replaced |= {1}
        for index in is_replaced:
            both[index] = two.start(index)
        for process in both:
            ended(process)
        steps = [step["step"] for step in two.training()["steps"]]
        assert steps == list(range(1, len(steps) + 1))
        assert losses(two.training()) == pytest.approx(losses(two.alone()), abs=1e-3)


def test_nodes_that_replace_share_a_try_and_do_not_take_the_old_commit_for_theirs(
    tmp_path: Path, tiny_lm_folder: Path
) -> None:
    with group(tmp_path, str(tmp_path / "store"), tiny_lm_folder, epochs=0.5) as two:
        for process in [two.start(index) for index in (0, 1)]:
            ended(process)
        old = two.manifest()
        two.spec = replace(two.spec, replace=True)
        assert ended(two.start(1), 64)[-1]["where"] == "RADIT_TRY"
        for process in [two.start(index, {"RADIT_TRY": "uid-1"}) for index in (0, 1)]:
            ended(process)
        new = two.manifest()
        assert old is not None and new is not None and new.attempt != old.attempt
        told = ended(two.start(1, {"RADIT_TRY": "uid-1"}))
        assert [event["message"] for event in told] == ["this try has committed already; nothing to do"]


@pytest.mark.parametrize(
    ("variables", "where"),
    [
        ({"RADIT_ENDPOINT": ""}, "RADIT_ENDPOINT"),
        ({"RADIT_ENDPOINT": "first-node"}, "RADIT_ENDPOINT"),
        ({"JOB_COMPLETION_INDEX": "2"}, "JOB_COMPLETION_INDEX"),
    ],
)
def test_a_node_that_does_not_know_its_place_says_so(
    tmp_path: Path, tiny_lm_folder: Path, variables: dict[str, str], where: str
) -> None:
    with group(tmp_path, str(tmp_path / "store"), tiny_lm_folder) as two:
        said = ended(two.start(1, variables), 64)[-1]
        assert (said["type"], said["where"]) == ("ConfigError", where)
