"""Whatever is killed, whenever: a stage has one fine-tuning job at the service, and `radit cancel` ends it."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from radit_job.config.models import Model
from radit_job.config.schema import FinetuneLM
from radit_job.config.slices import FinetuneLMSlice
from radit_job.jobs import ArtifactRef, JobSpec
from radit_job.pipeline.names import spec_file
from radit_job.pipeline.runs import RunRecord, StageRecord, save_run
from radit_job.records import Example, Message, write_rows
from radit_job.store import ObjectStore, open_store
from radit_job.store import artifacts as committed
from tests.e2e.conftest import environment
from tests.servers.openai_server import OpenAIServer, openai_server
from tests.servers.seaweedfs import SeaweedFS

MANY_KILLS = 20
MODEL = "gpt-4o-mini"
BEFORE_THE_JOB = ("files", "fine_tuning.jobs.list", "fine_tuning.jobs", "fine_tuning.jobs")
WITH_THE_JOB = ("fine_tuning.jobs.get", "fine_tuning.jobs.events")


class Tuning:
    """The stage finetune_lm of one run, as a process that can be started again and again; a key makes its own job."""

    def __init__(self, folder: Path, store: ObjectStore, server: OpenAIServer, key: str) -> None:
        self.folder, self.store, self.server, self.key = folder, store, server, key
        write_rows(folder / "in/examples/examples.jsonl", (_example(key, number) for number in range(12)))
        manifest, _ = committed.publish(store, "augment", key, folder / "in", ["examples"], {})
        tuning = FinetuneLM(engine="openai", dev_share=0, api={"poll_s": 0.1, "suffix": key})
        lm = Model(provider="openai", name=MODEL, base_url=server.url, api_key_env="OPENAI_API_KEY")
        self.spec = JobSpec(
            "r",
            "finetune_lm",
            2,
            key,
            FinetuneLMSlice(seed=7, lm=lm.model_dump(), finetune_lm=tuning.model_dump()).model_dump(mode="json"),
            (ArtifactRef("examples", "augment", key, manifest.digest_of("examples")),),
            budget_usd=1.0,
            prices={MODEL: {"input_usd": 1.0, "output_usd": 1.0, "training_usd": 25.0}},
        )
        self.spec_name = spec_file("r", "finetune_lm", key)
        store.write(self.spec_name, json.dumps(self.spec.to_json()).encode())
        record = RunRecord("r", "sha256:0", "local", "2026-01-01T00:00:00Z")
        record.stages["finetune_lm"] = StageRecord("finetune_lm", "running", key=key)
        save_run(store, record)

    def start(self, **variables: str) -> subprocess.Popen[bytes]:
        arguments = ["stage", "finetune_lm", "--spec", self.spec_name, "--store", self.store.url]
        command = [sys.executable, "-m", "radit_job", *arguments]
        told = {**environment(), **self.server.environment, **variables}
        return subprocess.Popen(command, env=told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def killed_when(self, is_time: Callable[[], bool], **variables: str) -> bool:
        """Start the stage and kill -9 it at a moment; False where it ended before that."""
        process = self.start(**variables)
        while process.poll() is None:
            if is_time():
                process.kill()
                break
            time.sleep(0.002)
        said = process.communicate()[0].decode()
        assert "Traceback" not in said and self.server.key not in said
        return process.returncode == -signal.SIGKILL

    def finished(self, **variables: str) -> list[dict[str, Any]]:
        """Run to the end; the jobs that the service has then."""
        process = self.start(**variables)
        said = process.communicate(timeout=60)[0].decode()
        assert process.returncode == 0, said
        return self.jobs

    def cancel(self, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "radit_job", "cancel", "r", "--store", self.store.url]
        told = {**environment(), **self.server.environment, **variables}
        return subprocess.run(command, env=told, capture_output=True, text=True, timeout=60)

    @property
    def jobs(self) -> list[dict[str, Any]]:
        return [job for job in self.server.jobs.peek() if job["user_provided_suffix"] == self.key]

    def has_asked(self, operation: str, n: int = 1) -> Callable[[], bool]:
        """Whether so many requests of a kind have come since now."""
        before = self.server.books.n_requests[operation]
        return lambda: self.server.books.n_requests[operation] >= before + n


def _example(key: str, number: int) -> Example:
    question = f"Where is box {number} of {key}?"
    messages = (Message("user", question), Message("assistant", f"In room {number}."))
    return Example(f"q{number}", question, f"chunk{number}", (), (), None, messages)


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    with openai_server(latency_s=0.1) as server:
        yield server


@pytest.fixture
def place(tmp_path: Path, server: OpenAIServer) -> Iterator[Callable[[str], Tuning]]:
    """A run's stage in a folder store, by its key."""
    server.behave()
    yield lambda key: Tuning(tmp_path, open_store(str(tmp_path / "store")), server, key)
    server.change({"pace": {"polls": [1, 1, 3]}})


def test_killed_while_it_uploads_while_it_orders_and_while_it_waits(place: Callable[[str], Tuning]) -> None:
    tuning = place("three")

    def n_files() -> int:
        return sum(file["purpose"] == "fine-tune" for file in tuning.server.files.list())

    n_files_before = n_files()
    tuning.server.misbehave(kind="hang", on="files", times=1, seconds=5)
    assert tuning.killed_when(tuning.has_asked("files"))
    assert tuning.jobs == []
    tuning.server.misbehave(kind="hang", on="fine_tuning.jobs", times=1, seconds=5)
    assert tuning.killed_when(lambda: bool(tuning.jobs))
    tuning.server.behave()
    assert tuning.killed_when(tuning.has_asked("fine_tuning.jobs.get"))
    [job] = tuning.finished()
    assert job["status"] == "succeeded"
    assert n_files() == n_files_before + 1
    manifest = committed.find(tuning.store, "finetune_lm", "three")
    assert manifest is not None
    lm = committed.fetch(tuning.store, manifest, "lm", tuning.folder / "lm")
    assert json.loads((lm / "model.json").read_text())["name"] == job["fine_tuned_model"]
    spent = committed.read_result(tuning.store, manifest)["spent"][MODEL]
    assert spent["n_training_tokens"] == job["trained_tokens"]
    assert spent["usd"] == pytest.approx(job["trained_tokens"] * 25e-6)


def test_another_machine_goes_on_with_the_job_and_a_third_one_cancels_it(
    s3_environment: SeaweedFS, tmp_path: Path, server: OpenAIServer
) -> None:
    server.behave()
    s3_environment.make_bucket("tuning")
    tuning = Tuning(tmp_path, open_store(s3_environment.store_url("tuning/r")), server, "moved")
    server.misbehave(kind="hang", on="fine_tuning.jobs", times=1, seconds=5)
    assert tuning.killed_when(lambda: bool(tuning.jobs), RADIT_SCRATCH=str(tmp_path / "a"))
    [job] = tuning.jobs
    server.change({"pace": {"polls": [1, 1, 10_000]}})
    assert tuning.killed_when(tuning.has_asked("fine_tuning.jobs.get", 2), RADIT_SCRATCH=str(tmp_path / "b"))
    assert (
        tuning.cancel(RADIT_SCRATCH=str(tmp_path / "c")).stdout == f"cancelled fine-tuning job {job['id']} of {MODEL}\n"
    )
    assert [job["status"] for job in tuning.jobs] == ["cancelled"]


def test_sigterm_leaves_the_job_alone_and_cancel_ends_it(place: Callable[[str], Tuning]) -> None:
    tuning = place("ended")
    tuning.server.change({"pace": {"polls": [1, 1, 10_000]}})
    nothing = tuning.cancel()
    assert nothing.returncode == 64 and "no fine-tuning job" in nothing.stderr
    process, has_waited = tuning.start(), tuning.has_asked("fine_tuning.jobs.get", 3)
    while not has_waited():
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    assert process.wait(30) == 143
    [job] = tuning.jobs
    assert job["status"] in ("queued", "running")

    unset = tuning.cancel(OPENAI_API_KEY="")
    assert unset.returncode == 65 and "(OPENAI_API_KEY is not set here)" in unset.stderr
    by_hand = f'curl -X POST {tuning.server.url}/fine_tuning/jobs/{job["id"]}/cancel -H "Authorization: Bearer $OPENAI'
    assert by_hand in unset.stderr
    done = tuning.cancel()
    assert done.stdout == f"cancelled fine-tuning job {job['id']} of {MODEL}\n", done.stderr
    assert tuning.jobs[0]["status"] == "cancelled"
    assert tuning.cancel().stdout == f"fine-tuning job {job['id']} is cancelled already\n"

    tuning.server.change({"pace": {"polls": [1, 1, 1]}})
    process = tuning.start()
    assert f"the fine-tuning job {job['id']} was cancelled" in process.communicate(timeout=60)[0].decode()
    assert process.returncode == 65
    assert [job["status"] for job in tuning.finished()] == ["succeeded", "cancelled"]


@pytest.mark.slow
def test_killed_at_twenty_moments(place: Callable[[str], Tuning]) -> None:
    chance, n_kills, n_stages = random.Random(3), 0, 0
    while n_kills < MANY_KILLS:
        tuning = place(f"many-{n_stages}")
        n_stages += 1
        while n_kills < MANY_KILLS:
            operation = chance.choice(WITH_THE_JOB if tuning.jobs else BEFORE_THE_JOB)
            kind = chance.choice(("hang", "lost", "slow", "server_error", "reset"))
            tuning.server.misbehave(kind=kind, on=operation, times=1, share=0.7, seconds=1)
            if not tuning.killed_when(later(tuning.has_asked(operation), chance.uniform(0, 0.3))):
                break
            n_kills += 1
            print(f"{tuning.key} kill {n_kills} at {operation} ({kind}): {[job['status'] for job in tuning.jobs]}")
        tuning.server.behave()
        assert [job["status"] for job in tuning.finished()] == ["succeeded"], tuning.key
    print(f"{n_kills} kills, {n_stages} stages, one job each")


def later(has_come: Callable[[], bool], delay_s: float) -> Callable[[], bool]:
    """A moment `delay_s` behind another one."""
    due_s: list[float] = []

    def is_time() -> bool:
        if not due_s and has_come():
            due_s.append(time.monotonic() + delay_s)
        return bool(due_s) and time.monotonic() >= due_s[0]

    return is_time
